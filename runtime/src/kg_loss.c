/* The loss, and its gradient. */
#include "kg_kernels.h"

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
