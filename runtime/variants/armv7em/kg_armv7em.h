/* What the kernels for Cortex-M4 and M7 share: pairs of int16 in a register, and requantising by
 * the high word of a product. */
#ifndef KG_ARMV7EM_H
#define KG_ARMV7EM_H

#include <arm_acle.h>
#include <string.h>

#include "kg_kernels.h"

/* Four bytes from anywhere: one LDR, which these processors allow at any address. */
static inline uint32_t load4(const void *from) {
    uint32_t v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* Bytes 0 and 2, or 1 and 3, as two int16. */
static inline uint32_t even_bytes(uint32_t v) { return (uint32_t)__sxtb16(v); }
static inline uint32_t odd_bytes(uint32_t v) { return (uint32_t)__sxtb16(v >> 8 | v << 24); }

/* The low halves of a and b in one word, and the high halves. */
static inline uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xFFFF) | b << 16; }
static inline uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xFFFF0000); }

static inline int32_t multiply_add(uint32_t a, uint32_t b, int32_t sum) {
    return __smlad((int16x2_t)a, (int16x2_t)b, sum);
}

/// Requantising ///

/* What turns the sums of one output channel into codes.  With 2^n below the high word of
 * acc * multiplier, y_zero + requantised acc is (high word + offset) >> n, because rounding and
 * zero point can be added before the shift: neither has bits below 2^32.  n < 0: it has, or the
 * offset would not fit. */
typedef struct {
    int32_t multiplier, offset, n, bias;
} scaler;

static inline scaler make_scaler(int32_t bias, int32_t multiplier, int32_t shift, int32_t y_zero) {
    const int32_t n = shift - 32;
    if (n < 1 || n > 20) return (scaler){multiplier, y_zero, -shift, bias};
    return (scaler){multiplier, y_zero * (1 << n) + (1 << (n - 1)), n, bias};
}

static inline int8_t scaled(int32_t acc, const scaler *s) {
    const int32_t high = (int32_t)(((int64_t)acc * s->multiplier) >> 32);
    return (int8_t)__ssat((high + s->offset) >> s->n, 8);
}

static inline int8_t scaled_any(int32_t acc, const scaler *s) {
    if (s->n > 0) return scaled(acc, s);
    return kg_clip_i8(s->offset + kg_requantise(acc, s->multiplier, -s->n));
}

#endif
