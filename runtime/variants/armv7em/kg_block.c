/* Gradients with a shared exponent, two mantissas at a time, with the DSP instructions of Cortex-M4
 * and M7.  Same integers as src/kg_block.c, which this file replaces. */
#include "kg_kernels.h"
#ifndef __ARM_FEATURE_SIMD32
#include "../../src/kg_block.c"
#else

#define kg_scale_channels portable_scale_channels
#define kg_clip_mask      portable_clip_mask
#define kg_clip_grad      portable_clip_grad
#define kg_sum_pixels     portable_sum_pixels
#define UNUSED            KG_COLD __attribute__((unused)) static void
UNUSED portable_scale_channels(kg_block16 *y, const kg_block16 *x,
                               const kg_scale_channels_params *p);
UNUSED portable_clip_mask(uint8_t *mask, const int8_t *y, const kg_clip_mask_params *p);
UNUSED portable_clip_grad(kg_block16 *dx, const kg_block16 *dy, const uint8_t *mask,
                          const kg_clip_grad_params *p);
UNUSED portable_sum_pixels(kg_block32 *db, const kg_block16 *dy, const kg_sum_pixels_params *p);
#include "../../src/kg_block.c"
#undef kg_scale_channels
#undef kg_clip_mask
#undef kg_clip_grad
#undef kg_sum_pixels

#include "kg_armv7em.h"

static inline void store4(void *to, uint32_t v) { __builtin_memcpy(to, &v, sizeof v); }

static inline int32_t low_scaled(uint32_t pair, int32_t factor) {
    return (int32_t)(((int64_t)(int16_t)pair * factor) >> 16);
}
static inline int32_t high_scaled(uint32_t pair, int32_t factor) {
    return (int32_t)(((int64_t)((int32_t)pair >> 16) * factor) >> 16);
}

static inline uint32_t seen2(const int16_t *x, const int32_t *factor) {
    const uint32_t v = load4(x);
    return magnitude(low_scaled(v, factor[0])) | magnitude(high_scaled(v, factor[1]));
}

ALONE static uint32_t seen_scaled(const int16_t *x, const int32_t *factor, int32_t channels) {
    uint32_t seen = 0;
    KG_ROLLED
    for (; channels > 3; channels -= 4, x += 4, factor += 4)
        seen |= seen2(x, factor) | seen2(x + 2, factor + 2);
    KG_ROLLED
    for (; channels; channels--) seen |= magnitude(scaled(*x++, *factor++));
    return seen;
}

static inline void put2(int16_t *y, const int16_t *x, const int32_t *factor, int32_t shift) {
    const uint32_t v = load4(x);
    const int32_t low = kg_round_to_odd(low_scaled(v, factor[0]), shift);
    const int32_t high = kg_round_to_odd(high_scaled(v, factor[1]), shift);
    store4(y, low_halves((uint32_t)low, (uint32_t)high));
}

ALONE static void put_scaled(int16_t *y, const int16_t *x, const int32_t *factor, int32_t channels,
                             int32_t shift) {
    KG_ROLLED
    for (; shift > 0 && channels > 3; channels -= 4, x += 4, y += 4, factor += 4) {
        put2(y, x, factor, shift);
        put2(y + 2, x + 2, factor + 2, shift);
    }
    KG_ROLLED
    for (; channels; channels--) {
        const int32_t v = scaled(*x++, *factor++);
        *y++ = (int16_t)(shift > 0 ? kg_round_to_odd(v, shift) : v * (1 << -shift));
    }
}

void kg_scale_channels(kg_block16 *y, const kg_block16 *x, const kg_scale_channels_params *p) {
    const int32_t exponent = x->exponent + p->exponent, channels = p->channels;
    uint32_t seen = 0;
    for (int32_t i = 0; i < p->size; i += channels)
        seen |= seen_scaled(x->mantissa + i, p->factor, channels);
    const int32_t shift = kg_bit_length(seen) - p->bits;
    for (int32_t i = 0; i < p->size; i += channels)
        put_scaled(y->mantissa + i, x->mantissa + i, p->factor, channels, shift);
    y->exponent = seen ? exponent + shift : KG_ZERO_EXPONENT;
}

/* One bit for each of four codes: codes + 127 wrap around to 254 and 255 at the ends only. */
static inline uint32_t mask4(uint32_t codes) {
    const uint32_t turned = __uadd8(codes, 0x7F7F7F7F);
    __uadd8(turned, 0x02020202);
    return __sel(0, 0x01010101) * 0x01020408u >> 24;
}

void kg_clip_mask(uint8_t *mask, const int8_t *y, const kg_clip_mask_params *p) {
    const int32_t whole = p->size & ~7;
    for (int32_t i = 0; i < whole; i += 8)
        *mask++ = (uint8_t)(mask4(load4(y + i)) | mask4(load4(y + i + 4)) << 4);
    if (whole < p->size)
        portable_clip_mask(mask, y + whole, &(kg_clip_mask_params){p->size - whole});
}

void kg_clip_grad(kg_block16 *dx, const kg_block16 *dy, const uint8_t *mask,
                  const kg_clip_grad_params *p) {
    const int32_t whole = p->size & ~7;
    dx->exponent = dy->exponent;
    for (int32_t i = 0; i < whole; i += 8) {
        const int32_t bits = mask[i / 8];
        for (int32_t j = 0; j < 8; j += 2) {
            const uint32_t low = (uint32_t)-(bits >> j & 1),
                           high = (uint32_t)-(bits >> (j + 1) & 1);
            store4(dx->mantissa + i + j, load4(dy->mantissa + i + j) & low_halves(low, high));
        }
    }
    if (whole < p->size)
        keep(dx->mantissa + whole, dy->mantissa + whole, mask[whole / 8], p->size - whole);
}

/* Sums of four neighbouring channels. */
ALONE static void sum4(int32_t *sum, const int16_t *x, int32_t channels, int32_t pixels) {
    int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    KG_ROLLED
    for (; pixels; pixels--, x += channels) {
        const uint32_t a = load4(x), b = load4(x + 2);
        s0 += (int16_t)a;
        s1 += (int32_t)a >> 16;
        s2 += (int16_t)b;
        s3 += (int32_t)b >> 16;
    }
    sum[0] = s0;
    sum[1] = s1;
    sum[2] = s2;
    sum[3] = s3;
}

void kg_sum_pixels(kg_block32 *db, const kg_block16 *dy, const kg_sum_pixels_params *p) {
    if (p->channels < 4) {
        portable_sum_pixels(db, dy, p);
        return;
    }
    db->exponent = dy->exponent;
    for (int32_t first = 0; first < p->channels; first += 4) {
        const int32_t c = kg_min(first, p->channels - 4); /* the last ones some again */
        sum4(db->mantissa + c, dy->mantissa + c, p->channels, p->pixels);
    }
}
#endif
