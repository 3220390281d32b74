/* The float32 head.  Sums run first element first, as in ops/head.py.
 *
 * Weights and prototypes may be anything, because a state may be damaged; what is computed from
 * them is finite (kg_finite).  Features, logits and their gradients always are: features are codes
 * times a scale in the range of kg_dequantise_params. */
#include "kg_kernels.h"

KG_COLD void kg_dequantise(float *y, const int8_t *x, const kg_dequantise_params *p) {
    KG_ASSERT(kg_dequantise_params_ok(p));
    KG_ASSERT(kg_aligned(y) && x);
    for (int32_t i = 0; i < p->size; i++) y[i] = (float)(x[i] - p->zero) * p->scale;
}

KG_COLD void kg_to_block(kg_block16 *y, const float *x, const kg_to_block_params *p) {
    KG_ASSERT(kg_to_block_params_ok(p));
    KG_ASSERT(kg_aligned(y) && kg_aligned(x));
    float widest = 0;
    for (int32_t i = 0; i < p->size; i++) {
        KG_ASSERT(kg_is_finite(x[i]));
        const float magnitude = x[i] < 0 ? -x[i] : x[i];
        if (magnitude > widest) widest = magnitude;
    }
    /* the exponent of frexp: widest = m * 2^exponent, 1/2 <= m < 1 */
    int32_t exponent = -100;
    while (exponent < 128 && widest >= kg_pow2(exponent)) exponent++;
    const int zero = widest < kg_pow2(-101);
    const float unit = kg_pow2(p->bits - exponent);
    for (int32_t i = 0; i < p->size; i++) {
        const float v = x[i] * unit;
        int32_t m = (int32_t)v;
        if ((float)m > v) m--;
        y->mantissa[i] = (int16_t)(zero ? 0 : m | ((float)m != v));
    }
    y->exponent = zero ? KG_ZERO_EXPONENT : exponent - p->bits;
}

KG_COLD void kg_dense(float *y, const float *x, const float *w, const float *b,
                      const kg_dense_params *p) {
    KG_ASSERT(kg_dense_params_ok(p));
    KG_ASSERT(kg_aligned(y) && kg_aligned(x) && kg_aligned(w) && kg_aligned(b));
    for (int32_t k = 0; k < p->classes; k++, w += p->features) {
        float sum = b[k];
        for (int32_t i = 0; i < p->features; i++) sum += x[i] * w[i];
        y[k] = kg_finite(sum);
    }
}

KG_COLD void kg_dense_input_grad(float *dx, const float *dy, const float *w,
                                 const kg_dense_input_grad_params *p) {
    KG_ASSERT(kg_dense_input_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy) && kg_aligned(w));
    for (int32_t i = 0; i < p->features; i++) {
        float sum = dy[0] * w[i];
        for (int32_t k = 1; k < p->classes; k++) sum += dy[k] * w[k * p->features + i];
        dx[i] = kg_finite(sum);
    }
}

KG_COLD void kg_dense_weight_grad(float *dw, const float *x, const float *dy,
                                  const kg_dense_weight_grad_params *p) {
    KG_ASSERT(kg_dense_weight_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dw) && kg_aligned(x) && kg_aligned(dy));
    for (int32_t k = 0; k < p->classes; k++, dw += p->features)
        for (int32_t i = 0; i < p->features; i++) dw[i] = dy[k] * x[i];
}

KG_COLD void kg_dense_weight_update(void *w, const float *x, const float *dy, void *s0, void *s1,
                                    const float *lr, const int32_t *clock, float *scratch,
                                    const kg_dense_weight_update_params *p) {
    KG_ASSERT(kg_dense_weight_update_params_ok(p));
    KG_ASSERT(kg_aligned(x) && kg_aligned(dy) && kg_aligned(lr) && kg_aligned(scratch) && w);
    for (int32_t r = 0; r < p->classes; r++) {
        for (int32_t i = 0; i < p->features; i++) scratch[i] = dy[r] * x[i];
        kg_update_row(w, r, scratch, s0, s1, lr, clock, &p->update);
    }
}

static float dot(const float *a, const float *b, int32_t n) {
    float sum = a[0] * b[0]; /* not 0 + ...: a sum of negative zeros is one */
    for (int32_t i = 1; i < n; i++) sum += a[i] * b[i];
    return sum;
}

KG_COLD void kg_cosine(float *y, const float *x, const float *prototypes,
                       const kg_cosine_params *p) {
    KG_ASSERT(kg_cosine_params_ok(p));
    KG_ASSERT(kg_aligned(y) && kg_aligned(x) && kg_aligned(prototypes));
    const float norm = kg_sqrt(dot(x, x, p->features));
    for (int32_t k = 0; k < p->classes; k++, prototypes += p->features) {
        const float length = norm * kg_sqrt(dot(prototypes, prototypes, p->features));
        y[k] = length > 0 ? kg_finite(dot(x, prototypes, p->features) / length * p->scale) : 0;
    }
}

KG_COLD void kg_cosine_input_grad(float *dx, const float *dy, const float *x,
                                  const float *prototypes, const kg_cosine_input_grad_params *p) {
    KG_ASSERT(kg_cosine_input_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy) && kg_aligned(x) && kg_aligned(prototypes));
    const float norm = kg_sqrt(dot(x, x, p->features));
    for (int32_t i = 0; i < p->features; i++) dx[i] = 0;
    for (int32_t k = 0; k < p->classes; k++, prototypes += p->features) {
        const float length = norm * kg_sqrt(dot(prototypes, prototypes, p->features));
        if (!(length > 0)) continue;
        const float cosine = dot(x, prototypes, p->features) / length;
        const float weight = dy[k] * p->scale;
        const float along = weight / length;
        const float back = (weight * cosine) / (norm * norm);
        for (int32_t i = 0; i < p->features; i++) dx[i] += along * prototypes[i] - back * x[i];
    }
    for (int32_t i = 0; i < p->features; i++) dx[i] = kg_finite(dx[i]);
}

KG_COLD void kg_cosine_prototype_grad(float *dp, const float *dy, const float *x,
                                      const float *prototypes,
                                      const kg_cosine_prototype_grad_params *p) {
    KG_ASSERT(kg_cosine_prototype_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dp) && kg_aligned(dy) && kg_aligned(x) && kg_aligned(prototypes));
    const float norm = kg_sqrt(dot(x, x, p->features));
    for (int32_t k = 0; k < p->classes; k++, prototypes += p->features, dp += p->features) {
        const float own = kg_sqrt(dot(prototypes, prototypes, p->features)), length = norm * own;
        if (!(length > 0)) {
            for (int32_t i = 0; i < p->features; i++) dp[i] = 0;
            continue;
        }
        const float cosine = dot(x, prototypes, p->features) / length;
        const float weight = dy[k] * p->scale;
        const float along = weight / length;
        const float back = (weight * cosine) / (own * own);
        for (int32_t i = 0; i < p->features; i++)
            dp[i] = kg_finite(along * x[i] - back * prototypes[i]);
    }
}
