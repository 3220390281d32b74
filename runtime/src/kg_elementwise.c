/* Element by element: residual sums, clip masks, and arithmetic on gradients. */
#include "kg_kernels.h"

#include <string.h>

void kg_add(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_params *p) {
    KG_ASSERT(kg_add_params_ok(p));
    KG_ASSERT(y && a && c);
    const int64_t half = (int64_t)1 << (p->shift - 1);
    for (int32_t i = 0; i < p->size; i++) {
        const int64_t sum = (int64_t)p->a_multiplier * (a[i] - p->a_zero) +
                            (int64_t)p->c_multiplier * (c[i] - p->c_zero);
        y[i] = kg_clip_i8(p->y_zero + ((sum + half) >> p->shift));
    }
}

/* An int8 map, 20 bits to the left, in the scale that both have as TFLite adds them. */
static inline int32_t widened(int8_t x, int32_t zero, int32_t multiplier, int32_t shift) {
    return (int32_t)kg_requantise_tflite((x - zero) * (1 << 20), (kg_factor){multiplier, shift});
}

void kg_add_limited(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_limited_params *p) {
    KG_ASSERT(kg_add_limited_params_ok(p));
    KG_ASSERT(y && a && c);
    const int32_t m = p->a_multiplier, n = p->c_multiplier;
    const int64_t half = (int64_t)1 << (p->shift - 1);
    for (int32_t i = 0; i < p->size; i++) {
        int64_t sum;
        if (p->tflite)
            sum = kg_requantise_tflite(widened(a[i], p->a_zero, m, p->a_shift) +
                                           widened(c[i], p->c_zero, n, p->c_shift),
                                       (kg_factor){p->multiplier, p->shift});
        else
            sum = ((int64_t)m * (a[i] - p->a_zero) + (int64_t)n * (c[i] - p->c_zero) + half) >>
                  p->shift;
        y[i] = kg_clamp_i8(p->y_zero + sum, p->lowest, p->highest);
    }
}

void kg_limit_mask(uint8_t *mask, const int8_t *y, const kg_limit_mask_params *p) {
    KG_ASSERT(kg_limit_mask_params_ok(p));
    KG_ASSERT(mask && y);
    for (int32_t i = 0; i < p->size; i += 8) {
        uint8_t bits = 0;
        for (int32_t j = 0; j < kg_min(8, p->size - i); j++)
            bits |= (uint8_t)((y[i + j] > p->lowest && y[i + j] < p->highest) << j);
        mask[i / 8] = bits;
    }
}

void kg_clip_mask(uint8_t *mask, const int8_t *y, const kg_clip_mask_params *p) {
    KG_ASSERT(kg_clip_mask_params_ok(p));
    KG_ASSERT(mask && y);
    for (int32_t i = 0; i < p->size; i += 8) {
        uint8_t bits = 0;
        for (int32_t j = 0; j < kg_min(8, p->size - i); j++)
            bits |= (uint8_t)((y[i + j] > -128 && y[i + j] < 127) << j);
        mask[i / 8] = bits;
    }
}

/* n = 8 wherever possible, so that compilers see a constant. */
static inline void keep(int16_t *to, const int16_t *from, uint32_t mask, int32_t n) {
    for (int32_t j = 0; j < n; j++) to[j] = (int16_t)(from[j] & -(int32_t)(mask >> j & 1));
}

void kg_clip_grad(kg_block16 *dx, const kg_block16 *dy, const uint8_t *mask,
                  const kg_clip_grad_params *p) {
    KG_ASSERT(kg_clip_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy) && mask);
    const int32_t whole = p->size & ~7;
    dx->exponent = dy->exponent;
    for (int32_t i = 0; i < whole; i += 8) {
        const uint32_t bits = mask[i / 8];
        int16_t copy[8]; /* dx may be dy */
        keep(copy, dy->mantissa + i, bits, 8);
        memcpy(dx->mantissa + i, copy, sizeof copy);
    }
    if (whole < p->size)
        keep(dx->mantissa + whole, dy->mantissa + whole, mask[whole / 8], p->size - whole);
}

static inline int32_t scaled(int16_t mantissa, int32_t factor) {
    return (int32_t)(((int64_t)mantissa * factor) >> 16);
}

void kg_scale_channels(kg_block16 *y, const kg_block16 *x, const kg_scale_channels_params *p) {
    KG_ASSERT(kg_scale_channels_params_ok(p));
    KG_ASSERT(kg_aligned(y) && kg_aligned(x));
    KG_ASSERT(p->size % p->channels == 0);
    const int32_t exponent = x->exponent + p->exponent, channels = p->channels;
    const int32_t pixels = p->size / channels;
    uint32_t seen = 0;
    for (int32_t i = 0; i < pixels; i++)
        for (int32_t c = 0; c < channels; c++)
            seen |= kg_magnitude(scaled(x->mantissa[i * channels + c], p->factor[c]));
    const int32_t shift = kg_bit_length(seen) - p->bits;
    for (int32_t i = 0; i < pixels; i++) {
        const int16_t *in = x->mantissa + i * channels;
        int16_t *out = y->mantissa + i * channels;
        for (int32_t c = 0; c < channels; c++) {
            const int32_t v = scaled(in[c], p->factor[c]);
            out[c] = (int16_t)(shift > 0 ? kg_round_to_odd(v, shift) : v * (1 << -shift));
        }
    }
    y->exponent = seen ? exponent + shift : KG_ZERO_EXPONENT;
}

static uint32_t widest(const kg_block16 *x, int32_t size) {
    uint32_t seen = 0;
    KG_ROLLED
    for (int32_t i = 0; i < size; i++) seen |= kg_magnitude(x->mantissa[i]);
    return seen;
}

/* x * 2^-shift, either way. */
static inline int32_t moved(int32_t x, int32_t shift) {
    return shift > 0 ? kg_round_to_odd(x, shift) : x * (1 << -shift);
}

/* Both are brought to one exponent, with 29 bits for the larger, added, and shortened: twice, first
 * for the exponent of the sum, so that it may be written over an input. */
void kg_block_add(kg_block16 *y, const kg_block16 *a, const kg_block16 *c,
                  const kg_block_add_params *p) {
    KG_ASSERT(kg_block_add_params_ok(p));
    KG_ASSERT(kg_aligned(y) && kg_aligned(a) && kg_aligned(c));
    const uint32_t a_seen = widest(a, p->size), c_seen = widest(c, p->size);
    int32_t top = KG_ZERO_EXPONENT;
    if (a_seen) top = kg_max(top, a->exponent + kg_bit_length(a_seen));
    if (c_seen) top = kg_max(top, c->exponent + kg_bit_length(c_seen));
    const int32_t common = top - 29;
    const int32_t a_shift = a_seen ? kg_min(common - a->exponent, 31) : 0;
    const int32_t c_shift = c_seen ? kg_min(common - c->exponent, 31) : 0;
    uint32_t seen = 0;
    KG_ROLLED
    for (int32_t i = 0; i < p->size; i++)
        seen |= kg_magnitude(moved(a->mantissa[i], a_shift) + moved(c->mantissa[i], c_shift));
    const int32_t shift = kg_bit_length(seen) - p->bits;
    KG_ROLLED
    for (int32_t i = 0; i < p->size; i++) {
        const int32_t sum = moved(a->mantissa[i], a_shift) + moved(c->mantissa[i], c_shift);
        y->mantissa[i] = (int16_t)moved(sum, shift);
    }
    y->exponent = seen ? common + shift : KG_ZERO_EXPONENT;
}
