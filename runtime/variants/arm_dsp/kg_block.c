/* Gradients with a shared exponent, two mantissas at a time, with the DSP instructions of Cortex-M.
 * Same integers as src/kg_block.c, which this file replaces. */
#include "kg_arm_dsp.h"

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

static inline void store4(void *to, uint32_t v) { __builtin_memcpy(to, &v, sizeof v); }

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
    KG_ASSERT(kg_sum_pixels_params_ok(p));
    KG_ASSERT(kg_aligned(db) && kg_aligned(dy));
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
