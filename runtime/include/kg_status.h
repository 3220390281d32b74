/* What entry points of a generated program return.
 *
 * A call that is refused has written nothing: state and arena are as they were, to the byte. */
#ifndef KG_STATUS_H
#define KG_STATUS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    KG_OK,
    KG_NO_MEMORY,  /* state or arena is a null pointer */
    KG_MISALIGNED, /* state or arena is not 4-byte aligned */
    KG_BAD_STATE,  /* the state was not filled by this program's init, or is damaged */
    KG_NO_ROWS,    /* nothing gives the rows of the image */
    KG_BAD_LABEL,  /* the label is none of 0 ... classes - 1 */
    KG_BAD_CLOCK,  /* the step is none of 0 ... 2^31 - 2 */
    KG_BAD_RATE,   /* the rate is not a positive finite number */
    KG_BAD_SHARE   /* the share is not above 0 and at most 1 */
} kg_status;

/* The same in words, for any number. */
const char *kg_status_text(kg_status status);

#ifdef __cplusplus
}
#endif

#endif
