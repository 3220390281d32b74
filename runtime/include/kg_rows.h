/* Images that come row by row. */
#ifndef KG_ROWS_H
#define KG_ROWS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An image that comes row by row, as from a camera: `read` writes row 0, then row 1, and so on,
 * each once a call of an entry point. */
typedef struct {
    void (*read)(void *context, int32_t row, int8_t *to);
    void *context;
} kg_rows;

/* Rows of an image that lies in memory, in flash for example: `read` of a kg_rows whose context is
 * a kg_image. */
typedef struct {
    const int8_t *pixels;
    int32_t row_bytes;
} kg_image;

void kg_image_row(void *image, int32_t row, int8_t *to);

#ifdef __cplusplus
}
#endif

#endif
