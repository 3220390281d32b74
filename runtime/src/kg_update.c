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

/* Move row r of a parameter. */
static void move(void *w, int32_t r, const float *d, float *m, float *v, float lr, uint32_t key,
                 const kg_update *u) {
    const float most = u->is_float ? KG_FLOAT_MAX : KG_STEP_MAX;
    const float codes = u->scale ? u->codes / (float)u->scale[r] : 1;
    int32_t element = r * u->row_stride;
    KG_ROLLED
    for (int32_t j = 0; j < u->length; j++, element += u->element_stride) {
        float step = -(d[j] * lr) * codes;
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

static void add(float *sum, int32_t r, const float *g, float share, const kg_update *u) {
    int32_t element = r * u->row_stride;
    KG_ROLLED
    for (int32_t j = 0; j < u->length; j++, element += u->element_stride)
        sum[element] = kg_finite(sum[element] + g[j] * share);
}

void kg_update_row(void *w, int32_t r, float *g, void *s0, void *s1, const float *lr,
                   const int32_t *clock, const kg_update *u) {
    KG_ASSERT(r >= 0 && r <= u->rows - u->together);
    const int32_t coded = u->state_bytes < 4;
    KG_ASSERT(u->rule == KG_ACCUMULATE ? u->is_float && (clock || !coded) : clock != 0);
    KG_ASSERT(u->rule == KG_SGD || u->rule == KG_ACCUMULATE || kg_aligned(s0));
    KG_ASSERT(u->rule != KG_ADAM || kg_aligned(s1));
    if (u->rule == KG_ACCUMULATE) {
        if (coded)
            kg_state_row(g, r, w, 0, *lr, clock, u);
        else
            add(w, r, g, *lr, u);
        return;
    }
    float *m = coded || u->rule == KG_ROWRMS ? 0 : s0, *v = coded ? 0 : s1; /* of each element */
    if (coded)
        kg_state_row(g, r, s0, s1, u->rule == KG_ADAM ? 1 - u->beta1 : 1, clock, u);
    else
        direction(g, r, s0, s1, (uint32_t)clock[1] + 1, u); /* any 32 bits are a step */
    const uint32_t key = kg_key(clock, u->salt);
    for (int32_t k = 0; k < u->together; k++) move(w, r + k, g + k * u->length, m, v, *lr, key, u);
}

void kg_update_row_i32(void *w, int32_t r, void *row, int32_t exponent, void *s0, void *s1,
                       const float *lr, const int32_t *clock, const kg_update *u) {
    const float factor = kg_finite(kg_pow2(exponent) * u->gradient_scale);
    union {
        int32_t sum;
        float real;
    } *at = row;
    for (int32_t j = 0; j < u->length; j++) at[j].real = (float)at[j].sum * factor;
    kg_update_row(w, r, row, s0, s1, lr, clock, u);
}

void kg_update_block(void *w, const kg_block32 *g, void *s0, void *s1, const float *lr,
                     const int32_t *clock, float *scratch, const kg_update_block_params *p) {
    KG_ASSERT(kg_update_block_params_ok(p));
    KG_ASSERT(kg_aligned(g) && kg_aligned(lr) && kg_aligned(scratch) && w);
    const kg_update *u = &p->update;
    const float factor = kg_finite(kg_pow2(g->exponent) * u->gradient_scale);
    for (int32_t r = 0; r < u->rows; r += u->together) {
        KG_ROLLED
        for (int32_t j = 0; j < u->together * u->length; j++) {
            const int32_t element = r * u->row_stride + j * u->element_stride;
            scratch[j] = (float)g->mantissa[element] * factor;
        }
        kg_update_row(w, r, scratch, s0, s1, lr, clock, u);
    }
}

KG_COLD void kg_update_float(void *w, const float *g, void *s0, void *s1, const float *lr,
                             const int32_t *clock, float *scratch,
                             const kg_update_float_params *p) {
    KG_ASSERT(kg_update_float_params_ok(p));
    KG_ASSERT(kg_aligned(g) && kg_aligned(lr) && kg_aligned(scratch) && w);
    const kg_update *u = &p->update;
    for (int32_t r = 0; r < u->rows; r += u->together) {
        for (int32_t j = 0; j < u->together * u->length; j++)
            scratch[j] = g[r * u->row_stride + j * u->element_stride];
        kg_update_row(w, r, scratch, s0, s1, lr, clock, u);
    }
}

KG_COLD void kg_update_codes(void *w, const uint8_t *g, void *s0, void *s1, const float *lr,
                             const int32_t *clock, float *scratch,
                             const kg_update_codes_params *p) {
    KG_ASSERT(kg_update_codes_params_ok(p));
    KG_ASSERT(kg_aligned(g) && kg_aligned(lr) && kg_aligned(scratch) && w);
    const kg_update *u = &p->update;
    const int8_t *exponent = (const int8_t *)g + u->rows * u->length * p->gradient_bytes;
    for (int32_t r = 0; r < u->rows; r += u->together) {
        const int32_t first = r * u->length;
        const float unit = kg_pow2(exponent[p->gradient_rows == 1 ? 0 : r]);
        for (int32_t j = 0; j < u->together * u->length; j++)
            scratch[j] = kg_code_value(g, first + j, p->gradient_bytes, unit);
        kg_update_row(w, r, scratch, s0, s1, lr, clock, u);
    }
}

void kg_clear(void *w, const kg_clear_params *p) {
    KG_ASSERT(kg_clear_params_ok(p));
    KG_ASSERT(w);
    memset(w, 0, (size_t)p->bytes);
}
