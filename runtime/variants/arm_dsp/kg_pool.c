/* Sums over the pixels of a map with the DSP instructions of Cortex-M.  Same integers as
 * src/kg_pool.c, which this file replaces. */
#include "kg_arm_dsp.h"

/* The portable kernel does what the other cannot. */
#define kg_sum_pixels portable_sum_pixels
KG_COLD __attribute__((unused)) static void
portable_sum_pixels(kg_block32 *db, const kg_block16 *dy, const kg_sum_pixels_params *p);
#include "../../src/kg_pool.c"
#undef kg_sum_pixels

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
