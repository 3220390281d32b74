/* What entry points look at before they write; for generated code.
 *
 * All that comes from outside: memory, the state, rows, and inputs of which not every value will
 * do. Floats are compared as the integers that hold them: one comparison, which holds whatever a
 * compiler was told to assume of NaN. */
#ifndef KG_CHECK_H
#define KG_CHECK_H

#include "kg_rows.h"
#include "kg_status.h"

#define KG_INFINITY 0x7F800000u
#define KG_ONE      0x3F800000u

/* The bits of a float: positive ones are ordered as their bits, zero is 0. */
static inline uint32_t kg_bits_of(const float *value) {
    union {
        float value;
        uint32_t bits;
    } u = {*value};
    return u.bits;
}

static inline kg_status kg_check_memory(const void *block) {
    if (!block) return KG_NO_MEMORY;
    return (uintptr_t)block & 3 ? KG_MISALIGNED : KG_OK;
}

static inline kg_status kg_check_state(const void *stamp, uint32_t expected) {
    return *(const uint32_t *)stamp == expected ? KG_OK : KG_BAD_STATE;
}

static inline kg_status kg_check_rows(const kg_rows *rows) {
    return rows && rows->read ? KG_OK : KG_NO_ROWS;
}

static inline kg_status kg_check_label(const int32_t *label, int32_t ways) {
    return *label >= 0 && *label < ways ? KG_OK : KG_BAD_LABEL;
}

static inline kg_status kg_check_clock(const int32_t *clock) {
    return clock[1] >= 0 && clock[1] < INT32_MAX ? KG_OK : KG_BAD_CLOCK;
}

static inline kg_status kg_check_rate(const float *rate) {
    return kg_bits_of(rate) - 1 < KG_INFINITY - 1 ? KG_OK : KG_BAD_RATE;
}

static inline kg_status kg_check_share(const float *share) {
    return kg_bits_of(share) - 1 < KG_ONE ? KG_OK : KG_BAD_SHARE;
}

#endif
