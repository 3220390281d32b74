/* Functions of one code, as tables of 256 entries. */
#include "kg_kernels.h"

void kg_table(int8_t *y, const int8_t *x, const kg_table_params *p) {
    KG_ASSERT(kg_table_params_ok(p));
    KG_ASSERT(y && x);
    const int8_t *zero = p->codes + 128;
    for (int32_t i = 0; i < p->size; i++) y[i] = zero[x[i]];
}

/* The products have up to 46 bits. */
void kg_table_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *x,
                   const kg_table_grad_params *p) {
    KG_ASSERT(kg_table_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy) && x);
    const int32_t *zero = p->slopes + 128;
    uint64_t seen = 0;
    for (int32_t i = 0; i < p->size; i++) {
        const int64_t v = (int64_t)dy->mantissa[i] * zero[x[i]];
        seen |= (uint64_t)(v < 0 ? -v : v);
    }
    const uint32_t high = (uint32_t)(seen >> 32);
    const int32_t length = high ? 32 + kg_bit_length(high) : kg_bit_length((uint32_t)seen);
    const int32_t shift = length - p->bits, down = kg_max(shift, 0), up = kg_max(-shift, 0);
    const int64_t lost = ((int64_t)1 << down) - 1;
    const int32_t exponent = dy->exponent + p->exponent + shift; /* dx may be dy */
    for (int32_t i = 0; i < p->size; i++) {
        const int64_t v = (int64_t)dy->mantissa[i] * zero[x[i]];
        dx->mantissa[i] = (int16_t)((int32_t)(v >> down) * (1 << up) | ((v & lost) != 0));
    }
    dx->exponent = seen ? exponent : KG_ZERO_EXPONENT;
}
