/* Optimiser steps, row by row; definitions in ops/update.py. */
#include "kg_kernels.h"

#define KG_BIAS_LIMIT (1 << 30)

/* Replace the gradient by the direction to go. */
static void direction(float *g, int32_t r, float *s0, float *s1, int32_t t, const kg_update *u) {
    const float b1 = u->beta1, b2 = u->beta2;
    if (u->rule == KG_ROWRMS) {
        float sum = 0;
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++) sum += g[j] * g[j];
        s0[r] = b2 * s0[r] + (1 - b2) * (sum / (float)u->length);
        const float rms = kg_sqrt(s0[r] / (1 - kg_power(b2, t))) + u->epsilon;
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++) g[j] = g[j] / rms;
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

static int32_t limited(int32_t x, int32_t step, int32_t limit) {
    return kg_max(-limit, kg_min(limit, x + step)); /* |x| and |step| <= 2^30: no overflow */
}

void kg_update_row(void *w, int32_t r, float *g, float *s0, float *s1, const float *lr,
                   const int32_t *clock, const kg_update *u) {
    int32_t element = r * u->row_stride;
    if (u->rule == KG_ACCUMULATE) {
        KG_ROLLED
        for (int32_t j = 0; j < u->length; j++, element += u->element_stride)
            ((float *)w)[element] += g[j] * *lr;
        return;
    }
    direction(g, r, s0, s1, clock[1] + 1, u);
    const float codes = u->scale ? u->codes / (float)u->scale[r] : 1;
    const uint32_t key =
        kg_hash((uint32_t)clock[0] ^ kg_hash((uint32_t)clock[1]) ^ kg_hash(u->salt + 1));
    KG_ROLLED
    for (int32_t j = 0; j < u->length; j++, element += u->element_stride) {
        const float step = -(g[j] * *lr) * codes;
        if (u->is_float) {
            ((float *)w)[element] += step;
            continue;
        }
        const int32_t whole = kg_stochastic_round(step, kg_hash((uint32_t)element ^ key));
        if (u->element_bytes == 1) {
            int8_t *q = (int8_t *)w + element;
            *q = (int8_t)limited(*q, whole, 127);
        } else {
            int32_t *q = (int32_t *)w + element;
            *q = limited(*q, whole, KG_BIAS_LIMIT);
        }
    }
}

void kg_update_row_i32(void *w, int32_t r, void *row, int32_t exponent, float *s0, float *s1,
                       const float *lr, const int32_t *clock, const kg_update *u) {
    const float factor = kg_pow2(exponent) * u->gradient_scale;
    union {
        int32_t sum;
        float real;
    } *at = row;
    for (int32_t j = 0; j < u->length; j++) at[j].real = (float)at[j].sum * factor;
    kg_update_row(w, r, row, s0, s1, lr, clock, u);
}

void kg_update_block(void *w, const kg_block32 *g, float *s0, float *s1, const float *lr,
                     const int32_t *clock, float *scratch, const kg_update_block_params *p) {
    const kg_update *u = &p->update;
    const float factor = kg_pow2(g->exponent) * u->gradient_scale;
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
    const kg_update *u = &p->update;
    for (int32_t r = 0; r < u->rows; r++) {
        for (int32_t j = 0; j < u->length; j++)
            scratch[j] = g[r * u->row_stride + j * u->element_stride];
        kg_update_row(w, r, scratch, s0, s1, lr, clock, u);
    }
}

KG_COLD void kg_dense_weight_update(void *w, const float *x, const float *dy, float *s0, float *s1,
                                    const float *lr, const int32_t *clock, float *scratch,
                                    const kg_dense_weight_update_params *p) {
    for (int32_t r = 0; r < p->classes; r++) {
        for (int32_t i = 0; i < p->features; i++) scratch[i] = dy[r] * x[i];
        kg_update_row(w, r, scratch, s0, s1, lr, clock, &p->update);
    }
}
