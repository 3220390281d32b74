/* Optimiser steps, row by row; definitions in ops/update.py. */
#include "kg_kernels.h"

#include <string.h>

#define KG_BIAS_LIMIT (1 << 30)

/* Could v be a mean of squares?  Not what a damaged state may hold. */
static inline int is_mean_square(float v) { return v >= 0 && v <= KG_FLOAT_MAX; }

/* Replace the gradient by the direction to go. */
static void direction(float *g, int32_t r, float *s0, float *s1, uint32_t t, const kg_update *u) {
    const float b1 = u->beta1, b2 = u->beta2;
    if (u->rule == KG_ROWRMS) {
        float sum = 0;
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++) sum += g[j] * g[j];
        const float before = is_mean_square(s0[r]) ? s0[r] : 0;
        s0[r] = kg_finite(b2 * before + (1 - b2) * (sum / (float)u->length));
        const float rms = kg_sqrt(s0[r] / (1 - kg_power(b2, t))) + u->epsilon;
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++) g[j] = g[j] / rms;
    } else if (u->rule == KG_MOMENTUM) {
        float *m = s0 + r * u->length;
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++) g[j] = m[j] = b1 * m[j] + g[j];
    } else if (u->rule == KG_ADAM) {
        const float c1 = 1 - kg_power(b1, t), c2 = 1 - kg_power(b2, t);
        float *m = s0 + r * u->length, *v = s1 + r * u->length;
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++) {
            m[j] = b1 * m[j] + (1 - b1) * g[j];
            v[j] = b2 * v[j] + (1 - b2) * (g[j] * g[j]);
            g[j] = (m[j] / c1) / (kg_sqrt(v[j] / c2) + u->epsilon);
        }
    }
}

/* What becomes of a step that is no number or too large; the momentum, or the moments of Adam, that
 * led there start again at 0. */
KG_COLD static float outlier(float step, float most, float *m, float *v) {
    if (m && !kg_is_finite(*m)) *m = 0;
    if (v && !is_mean_square(*v)) *v = 0;
    return step > most ? most : step < -most ? -most : 0;
}

static int32_t limited(int8_t x, int32_t step, int32_t limit) {
    return kg_max(-limit, kg_min(limit, x + step)); /* |x| <= 2^7, |step| <= 2^30 */
}

/* In 64 bits: both may be 2^30, and x anything in a damaged state. */
static int32_t limited_bias(int32_t x, int32_t step) {
    const int64_t sum = (int64_t)x + step;
    return sum > KG_BIAS_LIMIT    ? KG_BIAS_LIMIT
           : sum < -KG_BIAS_LIMIT ? -KG_BIAS_LIMIT
                                  : (int32_t)sum;
}

void kg_update_row(void *w, int32_t r, float *g, float *s0, float *s1, const float *lr,
                   const int32_t *clock, const kg_update *u) {
    KG_ASSERT(r >= 0 && r < u->rows);
    KG_ASSERT(u->rule == KG_ACCUMULATE ? u->is_float : clock != 0);
    KG_ASSERT(u->rule != KG_ROWRMS || kg_aligned(s0));
    KG_ASSERT(u->rule != KG_MOMENTUM || kg_aligned(s0));
    KG_ASSERT(u->rule != KG_ADAM || (kg_aligned(s0) && kg_aligned(s1)));
    int32_t element = r * u->row_stride;
    if (u->rule == KG_ACCUMULATE) {
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++, element += u->element_stride)
            ((float *)w)[element] = kg_finite(((float *)w)[element] + g[j] * *lr);
        return;
    }
    direction(g, r, s0, s1, (uint32_t)clock[1] + 1, u); /* any 32 bits are a step */
    const float most = u->is_float ? KG_FLOAT_MAX : KG_STEP_MAX;
    float *m = u->rule == KG_ROWRMS ? 0 : s0, *v = s1; /* those of elements, or null */
    const float codes = u->scale ? u->codes / (float)u->scale[r] : 1;
    const uint32_t key =
        kg_hash((uint32_t)clock[0] ^ kg_hash((uint32_t)clock[1]) ^ kg_hash(u->salt + 1));
    KG_ROLLED
    for (int32_t j = 0; j < u->length; j++, element += u->element_stride) {
        float step = -(g[j] * *lr) * codes;
        if (!(__builtin_fabsf(step) <= most)) {
            const int32_t at = r * u->length + j;
            step = outlier(step, most, m ? m + at : 0, v ? v + at : 0);
        }
        if (u->is_float) {
            ((float *)w)[element] = kg_finite(((float *)w)[element] + step);
            continue;
        }
        const int32_t whole = kg_stochastic_round(step, kg_hash((uint32_t)element ^ key));
        if (u->element_bytes == 1) {
            int8_t *q = (int8_t *)w + element;
            *q = (int8_t)limited(*q, whole, 127);
        } else {
            int32_t *q = (int32_t *)w + element;
            *q = limited_bias(*q, whole);
        }
    }
}

void kg_update_row_i32(void *w, int32_t r, void *row, int32_t exponent, float *s0, float *s1,
                       const float *lr, const int32_t *clock, const kg_update *u) {
    const float factor = kg_finite(kg_pow2(exponent) * u->gradient_scale);
    union {
        int32_t sum;
        float real;
    } *at = row;
    for (int32_t j = 0; j < u->length; j++) at[j].real = (float)at[j].sum * factor;
    kg_update_row(w, r, row, s0, s1, lr, clock, u);
}

void kg_update_block(void *w, const kg_block32 *g, float *s0, float *s1, const float *lr,
                     const int32_t *clock, float *scratch, const kg_update_block_params *p) {
    KG_ASSERT(kg_update_block_params_ok(p));
    KG_ASSERT(kg_aligned(g) && kg_aligned(lr) && kg_aligned(scratch) && w);
    const kg_update *u = &p->update;
    const float factor = kg_finite(kg_pow2(g->exponent) * u->gradient_scale);
    for (int32_t r = 0; r < u->rows; r++) {
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++) {
            const int32_t element = r * u->row_stride + j * u->element_stride;
            scratch[j] = (float)g->mantissa[element] * factor;
        }
        kg_update_row(w, r, scratch, s0, s1, lr, clock, u);
    }
}

KG_COLD void kg_update_float(void *w, const float *g, float *s0, float *s1, const float *lr,
                             const int32_t *clock, float *scratch,
                             const kg_update_float_params *p) {
    KG_ASSERT(kg_update_float_params_ok(p));
    KG_ASSERT(kg_aligned(g) && kg_aligned(lr) && kg_aligned(scratch) && w);
    const kg_update *u = &p->update;
    for (int32_t r = 0; r < u->rows; r++) {
        for (int32_t j = 0; j < u->length; j++)
            scratch[j] = g[r * u->row_stride + j * u->element_stride];
        kg_update_row(w, r, scratch, s0, s1, lr, clock, u);
    }
}

void kg_clear(void *w, const kg_clear_params *p) {
    KG_ASSERT(kg_clear_params_ok(p));
    KG_ASSERT(w);
    memset(w, 0, (size_t)p->bytes);
}
