/* Convolution and its input gradient with the DSP instructions of Cortex-M4 and M7.  Same integers
 * as src/kg_conv.c, which this file replaces.
 *
 * Filters are widened to int16 once, FILTERS at a time, and used for every pixel: two products
 * cost one instruction then, and only the bytes of the map are widened on the way. */
#include "kg_kernels.h"
#ifndef __ARM_FEATURE_SIMD32
#include "../../src/kg_conv.c"
#else

#include "kg_armv7em.h"

#define FILTERS 4

/// Forward ///

/* How a filter lies in scratch memory: `runs` runs of contiguous weights, each filled with zeros to
 * `quads` groups of four.  A group is the bytes 0 and 2, then 1 and 3, of each filter in turn. */
typedef struct {
    int32_t runs, length, quads;
} layout;

static inline int16_t *widened(uint32_t *to, int32_t quad, int32_t filter, int32_t byte) {
    return (int16_t *)(to + (quad * FILTERS + filter) * 2 + byte % 2) + byte / 2;
}

/* Writes one filter; returns its sum. */
static int32_t widen(uint32_t *to, const int8_t *from, const layout *l) {
    int32_t sum = 0;
    for (int32_t r = 0; r < l->runs; r++)
        for (int32_t left = l->length; left > 0; left -= 4, from += kg_min(left, 4)) {
            uint32_t v = 0;
            if (left >= 4)
                v = load4(from);
            else
                memcpy(&v, from, (size_t)left);
            to[0] = even_bytes(v);
            to[1] = odd_bytes(v);
            sum = multiply_add(to[0], 0x10001, multiply_add(to[1], 0x10001, sum));
            to += 2 * FILTERS;
        }
    return sum;
}
