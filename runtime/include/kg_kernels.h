/* What kernels share among themselves; not for callers. */
#ifndef KG_KERNELS_H
#define KG_KERNELS_H

#include "kg.h"

/* Is this memory for numbers of 4 bytes? */
static inline int kg_aligned(const void *p) { return p && (uintptr_t)p % 4 == 0; }

/* Writes a block whose exponent is not known until the last element: mantissas are shifted again
 * whenever a wider one comes, which rounding to odd makes exact (kilograd.quant.round_to_odd).
 *
 * Channels come in groups, a group for all pixels before the next one.  Only what was written is
 * ever touched, so the memory may still hold what later pixels and channels are computed from. */
typedef struct {
    kg_block16 *block;
    int32_t pixels, channels, bits, exponent, shift;
    uint32_t seen;
} kg_block_writer;

static inline kg_block_writer kg_block_begin(kg_block16 *block, int32_t pixels, int32_t channels,
                                             int32_t exponent, int32_t bits) {
    return (kg_block_writer){block, pixels, channels, bits, exponent, 0, 0};
}

void kg_block_widen(kg_block_writer *w, int32_t pixel, int32_t c, int32_t n);
void kg_block_end(kg_block_writer *w);

/* Channels c .. c + n of a pixel. */
static inline void kg_block_put(kg_block_writer *w, int32_t pixel, int32_t c, const int32_t *value,
                                int32_t n) {
    for (int32_t k = 0; k < n; k++) w->seen |= kg_magnitude(value[k]);
    if (w->seen >> (w->bits + w->shift)) kg_block_widen(w, pixel, c, n);
    int16_t *to = w->block->mantissa + pixel * w->channels + c;
    for (int32_t k = 0; k < n; k++) to[k] = (int16_t)kg_round_to_odd(value[k], w->shift);
}

/* scale * ratio / 2^shift of a channel with a multiplier of 31 bits; what is below is cut off. */
static inline kg_factor kg_factor_of(const kg_scaling *s, int32_t c) {
    const uint64_t product = (uint64_t)(uint32_t)s->scale[c] * (uint32_t)s->ratio;
    const int32_t extra = kg_bit_length((uint32_t)(product >> 31));
    return (kg_factor){(int32_t)(product >> extra), s->shift - extra};
}

/* The factor of a channel where sums are rounded as TFLite does. */
static inline kg_factor kg_tflite_factor_of(const kg_scaling *s, const int8_t *shift, int32_t c) {
    return (kg_factor){s->scale[c], shift[c]};
}

/* Clamp n codes to limits. */
static inline void kg_limit(int8_t *y, int32_t n, const kg_limits *l) {
    if (l->lowest == INT8_MIN && l->highest == INT8_MAX) return;
    for (int32_t i = 0; i < n; i++) y[i] = kg_clamp_i8(y[i], l->lowest, l->highest);
}
static inline void kg_limit_map(int8_t *y, const kg_window *g, const kg_limits *l) {
    kg_limit(y, g->out_h * g->out_w * g->out_c, l);
}

/* Where `key` stands in the overlay's index, or -1. */
int32_t kg_overlay_find(const kg_overlay *overlay, int32_t key);

/* Is all the memory there that a convolution of either kind asks for, and its input gradient? */
static inline int kg_has_conv(const int8_t *y, const int8_t *x, const int8_t *w,
                              const int8_t *learned, const int32_t *b, const int8_t *scratch,
                              const kg_overlay *overlay) {
    return kg_aligned(scratch) && y && x && w && b && (!overlay->count || learned);
}
static inline int kg_has_input_grad(const kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                                    const int8_t *learned, const int8_t *scratch,
                                    const kg_overlay *overlay) {
    return kg_aligned(dx) && kg_aligned(dy) && kg_aligned(scratch) && w &&
           (!overlay->count || learned);
}

/* First and one past the last kernel tap that falls inside the map. */
static inline int32_t kg_tap_begin(int32_t origin) { return origin < 0 ? -origin : 0; }
static inline int32_t kg_tap_end(int32_t origin, int32_t kernel, int32_t size) {
    return kg_min(kernel, size - origin);
}

/* First and one past the last place of a kernel that sees a pixel, `at` pixels from where the
 * padding begins. */
static inline int32_t kg_place_begin(int32_t at, int32_t kernel, int32_t stride) {
    return at < kernel ? 0 : (at - kernel) / stride + 1;
}
static inline int32_t kg_place_end(int32_t at, int32_t stride, int32_t places) {
    return kg_min(places, at / stride + 1);
}

/* What draws of a tensor have in common. */
static inline uint32_t kg_key(const int32_t *clock, uint32_t salt) {
    return kg_hash((uint32_t)clock[0] ^ kg_hash((uint32_t)clock[1]) ^ kg_hash(salt + 1));
}

/* What a code of 1 or 2 bytes stands for; in a damaged state it may be any, of any unit. */
static inline float kg_code_value(const void *codes, int32_t i, int32_t bytes, float unit) {
    const int32_t code = bytes == 1 ? ((const int8_t *)codes)[i] : ((const int16_t *)codes)[i];
    return kg_finite((float)code * unit);
}

/* Replace the gradient g of row r by the direction to go, where states are codes; for
 * KG_ACCUMULATE s0 is the sum.  The new mean is made of the old one and `share` of g. */
void kg_state_row(float *g, int32_t r, void *s0, void *s1, float share, const int32_t *clock,
                  const kg_update *u);

/* Step row r of a parameter, and those that share its exponents, along the gradient g (a float in
 * real units for each element; overwritten). */
void kg_update_row(void *w, int32_t r, float *g, void *s0, void *s1, const float *lr,
                   const int32_t *clock, const kg_update *u);

/* The same for a row of int32 sums, which becomes a row of floats in place. */
void kg_update_row_i32(void *w, int32_t r, void *row, int32_t exponent, void *s0, void *s1,
                       const float *lr, const int32_t *clock, const kg_update *u);

#endif
