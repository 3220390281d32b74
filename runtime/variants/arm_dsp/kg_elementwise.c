/* Element by element with the DSP instructions of Cortex-M, gradients two mantissas at a time. Same
 * integers as src/kg_elementwise.c, which this file replaces. */
#include "kg_arm_dsp.h"

#define kg_add            portable_add
#define kg_add_limited    portable_add_limited
#define kg_clip_mask      portable_clip_mask
#define kg_limit_mask     portable_limit_mask
#define kg_clip_grad      portable_clip_grad
#define kg_scale_channels portable_scale_channels
#define UNUSED            __attribute__((unused)) static void
UNUSED portable_add(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_params *p);
KG_COLD UNUSED portable_add_limited(int8_t *y, const int8_t *a, const int8_t *c,
                                    const kg_add_limited_params *p);
KG_COLD UNUSED portable_limit_mask(uint8_t *mask, const int8_t *y, const kg_limit_mask_params *p);
KG_COLD UNUSED portable_clip_mask(uint8_t *mask, const int8_t *y, const kg_clip_mask_params *p);
KG_COLD UNUSED portable_clip_grad(kg_block16 *dx, const kg_block16 *dy, const uint8_t *mask,
                                  const kg_clip_grad_params *p);
KG_COLD UNUSED portable_scale_channels(kg_block16 *y, const kg_block16 *x,
                                       const kg_scale_channels_params *p);
#include "../../src/kg_elementwise.c"
#undef kg_add
#undef kg_add_limited
#undef kg_clip_mask
#undef kg_limit_mask
#undef kg_clip_grad
#undef kg_scale_channels

/* Zero points and rounding are added once, in front of the products. */
void kg_add(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_params *p) {
    KG_ASSERT(kg_add_params_ok(p));
    KG_ASSERT(y && a && c);
    const int32_t m = p->a_multiplier, k = p->c_multiplier, shift = p->shift, size = p->size;
    if (shift < 9) { /* |sum| < 2^40: a result might not fit in 32 bits */
        portable_add(y, a, c, p);
        return;
    }
    const int64_t start = ((int64_t)p->y_zero * ((int64_t)1 << shift)) +
                          ((int64_t)1 << (shift - 1)) - (int64_t)m * p->a_zero -
                          (int64_t)k * p->c_zero;
    for (int32_t i = 0; i < size; i++) {
        const int64_t sum = multiply_add_wide(multiply_add_wide(start, m, a[i]), k, c[i]);
        /* below 2^(31 + shift), so the low word of the result is all of it */
        const uint32_t high = (uint32_t)(sum >> 32) << (32 - shift);
        y[i] = (int8_t)saturated((int32_t)(high | (uint32_t)sum >> shift));
    }
}

/* What TFLite's two roundings make of a number below 2^29; n = shift - 31. */
static inline int32_t rounded_twice(int32_t x, int32_t multiplier, int32_t n) {
    const int32_t high = high_rounded(2 * x, multiplier), away = n ? high >> 31 : 0;
    return (high + ((1 << n) >> 1) + away) >> n;
}

/* Maps that gain 20 bits are below 2^28, and so is their sum, as no map is made larger. */
void kg_add_limited(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_limited_params *p) {
    KG_ASSERT(kg_add_limited_params_ok(p));
    KG_ASSERT(y && a && c);
    const int32_t k = p->a_shift - 31, l = p->c_shift - 31, n = p->shift - 31;
    const int32_t m = p->a_multiplier, o = p->c_multiplier;
    if (!p->tflite || k < 0 || l < 0 || n < 0 || k > 30 || l > 30 || n > 30) {
        portable_add_limited(y, a, c, p);
        return;
    }
    for (int32_t i = 0; i < p->size; i++) {
        const int32_t sum = rounded_twice((a[i] - p->a_zero) * (1 << 20), m, k) +
                            rounded_twice((c[i] - p->c_zero) * (1 << 20), o, l);
        const int32_t code = p->y_zero + rounded_twice(sum, p->multiplier, n);
        y[i] = (int8_t)kg_max(p->lowest, kg_min(p->highest, code));
    }
}

/* One bit for each of four codes between two others. */
static inline uint32_t between4(uint32_t codes, uint32_t low, uint32_t high) {
    const uint32_t above = where_at_least(codes, low, 0x01010101, 0);
    return where_at_least(high, codes, above, 0) * 0x01020408u >> 24;
}

void kg_limit_mask(uint8_t *mask, const int8_t *y, const kg_limit_mask_params *p) {
    KG_ASSERT(kg_limit_mask_params_ok(p));
    KG_ASSERT(mask && y);
    const uint32_t low = four(p->lowest + 1), high = four(p->highest - 1);
    const int32_t none = p->lowest == INT8_MAX || p->highest == INT8_MIN, whole = p->size & ~7;
    KG_ROLLED
    for (int32_t i = 0; i < whole; i += 8)
        *mask++ = none ? 0
                       : (uint8_t)(between4(load4(y + i), low, high) |
                                   between4(load4(y + i + 4), low, high) << 4);
    if (whole < p->size)
        portable_limit_mask(mask, y + whole,
                            &(kg_limit_mask_params){p->size - whole, p->lowest, p->highest});
}

/* One bit for each of four codes: codes + 127 wrap around to 254 and 255 at the ends only. */
static inline uint32_t mask4(uint32_t codes) {
    const uint32_t turned = __uadd8(codes, 0x7F7F7F7F);
    __uadd8(turned, 0x02020202);
    return __sel(0, 0x01010101) * 0x01020408u >> 24;
}

void kg_clip_mask(uint8_t *mask, const int8_t *y, const kg_clip_mask_params *p) {
    KG_ASSERT(kg_clip_mask_params_ok(p));
    KG_ASSERT(mask && y);
    const int32_t whole = p->size & ~7;
    KG_ROLLED
    for (int32_t i = 0; i < whole; i += 8)
        *mask++ = (uint8_t)(mask4(load4(y + i)) | mask4(load4(y + i + 4)) << 4);
    if (whole < p->size)
        portable_clip_mask(mask, y + whole, &(kg_clip_mask_params){p->size - whole});
}

void kg_clip_grad(kg_block16 *dx, const kg_block16 *dy, const uint8_t *mask,
                  const kg_clip_grad_params *p) {
    KG_ASSERT(kg_clip_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy) && mask);
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

/* Sixteen bits less than the product, like scaled(); of the low and of the high half of x. */
#define SCALED(to, factor, half, x) "   smulw" half " " to ", " factor ", " x "\n"

/* For groups of four channels: all magnitudes. */
ALONE static uint32_t seen_scaled(const int16_t *x, const int32_t *factor, int32_t channels) {
    uint32_t seen = 0;
    int32_t groups = channels / 4;
    if (groups)
        __asm__ volatile("1: ldm %[f]!, {r2, r3, r4, r5}\n"
                         "   ldr r6, [%[x]], #4\n"
                         "   ldr r8, [%[x]], #4\n" SCALED("r2", "r2", "b", "r6")
                             SCALED("r3", "r3", "t", "r6") SCALED("r4", "r4", "b", "r8")
                                 SCALED("r5", "r5", "t", "r8") "   eor r6, r2, r2, asr #31\n"
                                                               "   sub r6, r6, r2, asr #31\n"
                                                               "   orr %[seen], r6\n"
                                                               "   eor r6, r3, r3, asr #31\n"
                                                               "   sub r6, r6, r3, asr #31\n"
                                                               "   orr %[seen], r6\n"
                                                               "   eor r6, r4, r4, asr #31\n"
                                                               "   sub r6, r6, r4, asr #31\n"
                                                               "   orr %[seen], r6\n"
                                                               "   eor r6, r5, r5, asr #31\n"
                                                               "   sub r6, r6, r5, asr #31\n"
                                                               "   orr %[seen], r6\n"
                                                               "   subs %[n], #1\n"
                                                               "   bne 1b\n"
                         : [f] "+r"(factor), [x] "+r"(x), [n] "+r"(groups), [seen] "+r"(seen)
                         :
                         : "r2", "r3", "r4", "r5", "r6", "r8", "cc", "memory");
    KG_ROLLED
    for (channels %= 4; channels; channels--) seen |= magnitude(scaled(*x++, *factor++));
    return seen;
}

/* The results, rounded to odd as (x | (lost + mask)) >> shift. */
ALONE static void put_scaled(int16_t *y, const int16_t *x, const int32_t *factor, int32_t channels,
                             int32_t shift) {
    int32_t groups = shift > 0 ? channels / 4 : 0;
    channels -= 4 * groups;
    if (groups) {
        const uint32_t mask = ((uint32_t)1 << shift) - 1;
        __asm__ volatile("1: ldm %[f]!, {r2, r3, r4, r5}\n"
                         "   ldr r6, [%[x]], #4\n"
                         "   ldr r8, [%[x]], #4\n" SCALED("r2", "r2", "b", "r6")
                             SCALED("r3", "r3", "t", "r6") SCALED("r4", "r4", "b", "r8")
                                 SCALED("r5", "r5", "t", "r8") "   and r6, r2, %[mask]\n"
                                                               "   add r6, %[mask]\n"
                                                               "   orr r2, r6\n"
                                                               "   asr r2, %[shift]\n"
                                                               "   and r6, r3, %[mask]\n"
                                                               "   add r6, %[mask]\n"
                                                               "   orr r3, r6\n"
                                                               "   asr r3, %[shift]\n"
                                                               "   and r6, r4, %[mask]\n"
                                                               "   add r6, %[mask]\n"
                                                               "   orr r4, r6\n"
                                                               "   asr r4, %[shift]\n"
                                                               "   and r6, r5, %[mask]\n"
                                                               "   add r6, %[mask]\n"
                                                               "   orr r5, r6\n"
                                                               "   asr r5, %[shift]\n"
                                                               "   pkhbt r2, r2, r3, lsl #16\n"
                                                               "   pkhbt r4, r4, r5, lsl #16\n"
                                                               "   str r2, [%[y]], #4\n"
                                                               "   str r4, [%[y]], #4\n"
                                                               "   subs %[n], #1\n"
                                                               "   bne 1b\n"
                         : [f] "+r"(factor), [x] "+r"(x), [y] "+r"(y), [n] "+r"(groups)
                         : [mask] "r"(mask), [shift] "r"(shift)
                         : "r2", "r3", "r4", "r5", "r6", "r8", "cc", "memory");
    }
    KG_ROLLED
    for (; channels; channels--) {
        const int32_t v = scaled(*x++, *factor++);
        *y++ = (int16_t)(shift > 0 ? kg_round_to_odd(v, shift) : v * (1 << -shift));
    }
}

void kg_scale_channels(kg_block16 *y, const kg_block16 *x, const kg_scale_channels_params *p) {
    KG_ASSERT(kg_scale_channels_params_ok(p));
    KG_ASSERT(kg_aligned(y) && kg_aligned(x));
    KG_ASSERT(p->size % p->channels == 0);
    const int32_t exponent = x->exponent + p->exponent, channels = p->channels;
    uint32_t seen = 0;
    for (int32_t i = 0; i < p->size; i += channels)
        seen |= seen_scaled(x->mantissa + i, p->factor, channels);
    const int32_t shift = kg_bit_length(seen) - p->bits;
    for (int32_t i = 0; i < p->size; i += channels)
        put_scaled(y->mantissa + i, x->mantissa + i, p->factor, channels, shift);
    y->exponent = seen ? exponent + shift : KG_ZERO_EXPONENT;
}
