/* Prototypes; definitions in ops/enrol.py. */
#include "kg_kernels.h"

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
