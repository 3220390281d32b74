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

KG_COLD void kg_enrol(float *prototypes, const float *x, const int32_t *label,
                      const kg_enrol_params *p) {
    KG_ASSERT(kg_enrol_params_ok(p));
    KG_ASSERT(kg_aligned(prototypes) && kg_aligned(x) && label);
    KG_ASSERT(*label >= 0 && *label < p->classes);
    prototypes += *label * p->features;
    for (int32_t i = 0; i < p->features; i++) prototypes[i] = kg_finite(prototypes[i] + x[i]);
}

KG_COLD void kg_lookup(float *y, const float *table, const int32_t *label,
                       const kg_lookup_params *p) {
    KG_ASSERT(kg_lookup_params_ok(p));
    KG_ASSERT(kg_aligned(y) && kg_aligned(table) && label);
    KG_ASSERT(*label >= 0 && *label < p->classes);
    table += *label * p->features;
    for (int32_t i = 0; i < p->features; i++) y[i] = kg_finite(table[i]);
}

static float largest(const float *x, int32_t n) {
    float m = x[0];
    KG_ASSERT(kg_is_finite(m));
    for (int32_t i = 1; i < n; i++) {
        KG_ASSERT(kg_is_finite(x[i]));
        m = x[i] > m ? x[i] : m;
    }
    return m;
}

KG_COLD void kg_cross_entropy(float *loss, const float *logits, const int32_t *label,
                              const kg_cross_entropy_params *p) {
    KG_ASSERT(kg_cross_entropy_params_ok(p));
    KG_ASSERT(kg_aligned(loss) && kg_aligned(logits) && label);
    KG_ASSERT(*label >= 0 && *label < p->classes);
    const float m = largest(logits, p->classes);
    float sum = 0;
    for (int32_t k = 0; k < p->classes; k++) sum += kg_exp(logits[k] - m);
    *loss = kg_finite(kg_log(sum) - (logits[*label] - m));
}

KG_COLD void kg_cross_entropy_grad(float *d, const float *logits, const int32_t *label,
                                   const float *dy, const kg_cross_entropy_grad_params *p) {
    KG_ASSERT(kg_cross_entropy_grad_params_ok(p));
    KG_ASSERT(kg_aligned(d) && kg_aligned(logits) && kg_aligned(dy) && label);
    KG_ASSERT(*label >= 0 && *label < p->classes);
    const float m = largest(logits, p->classes);
    float sum = 0;
    for (int32_t k = 0; k < p->classes; k++) sum += d[k] = kg_exp(logits[k] - m);
    for (int32_t k = 0; k < p->classes; k++) {
        const float probability = d[k] / sum;
        d[k] = (k == *label ? probability - 1 : probability) * *dy;
    }
}

void kg_fisher_sum(float *sums, const int8_t *a, const kg_block16 *g,
                   const kg_fisher_sum_params *p) {
    KG_ASSERT(kg_fisher_sum_params_ok(p));
    KG_ASSERT(kg_aligned(sums) && kg_aligned(g) && a);
    const float factor = kg_finite(kg_pow2(g->exponent) * p->scale);
    for (int32_t c = 0; c < p->channels; c++) {
        int32_t total = 0;
        for (int32_t i = c; i < p->pixels * p->channels; i += p->channels)
            total += (a[i] - p->zero) * g->mantissa[i];
        const float gate = (float)total * factor;
        sums[c] = kg_finite(sums[c] + 0.5f * (gate * gate));
    }
}
