/* How much the loss would feel the loss of a channel. */
#include "kg_kernels.h"

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
