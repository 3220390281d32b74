/* int8 maps, element by element, with the DSP instructions of Cortex-M.  Same integers as
 * src/kg_elementwise.c, which this file replaces. */
#include "kg_arm_dsp.h"

#define kg_add portable_add
__attribute__((unused)) static void portable_add(int8_t *y, const int8_t *a, const int8_t *c,
                                                 const kg_add_params *p);
#include "../../src/kg_elementwise.c"
#undef kg_add

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
        y[i] = (int8_t)__ssat((int32_t)(high | (uint32_t)sum >> shift), 8);
    }
}
