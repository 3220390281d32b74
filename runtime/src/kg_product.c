/* Products of two maps, and their gradients. */
#include "kg_kernels.h"

/* How a product of codes, of 17 bits at most, comes to the scale of the result: as kg_requantise or
 * kg_requantise_tflite; by its high word alone where at least 32 bits are shifted out. */
typedef enum { ANY, HIGH, HIGH_TFLITE } way;

static inline int32_t rescaled(int32_t product, kg_factor f, int32_t tflite, way how) {
    const int64_t scaled = (int64_t)product * f.multiplier;
    if (how == HIGH)
        return (int32_t)((scaled + ((int64_t)1 << (f.shift - 1))) >> 32) >> (f.shift - 32);
    if (how == HIGH_TFLITE) {
        const int32_t high = (int32_t)((scaled + (1 << 30)) >> 31), more = f.shift - 31;
        return (high + (1 << (more - 1)) - (high < 0)) >> more;
    }
    const int64_t wide = tflite ? kg_requantise_tflite(product, f) : kg_requantise(product, f);
    return (int32_t)(wide < -512 ? -512 : wide > 512 ? 512 : wide); /* beyond all codes */
}

/* Parameters come by value: for all a compiler knows, y may lie over what p points to. */
KG_INLINE void multiply(int8_t *y, const int8_t *x, const int8_t *factor, kg_product_params p,
                        way how) {
    const kg_factor scale = {p.multiplier, p.shift};
    for (int32_t i = 0; i < p.pixels; i++) {
        const int8_t *f = factor + i * p.pixel_step;
        for (int32_t c = 0; c < p.channels; c++, f += p.channel_step) {
            const int32_t product = (*x++ - p.x_zero) * (*f - p.factor_zero);
            const int32_t code = p.y_zero + rescaled(product, scale, p.tflite, how);
            *y++ = (int8_t)kg_max(p.least, kg_min(code, p.most));
        }
    }
}

void kg_product(int8_t *y, const int8_t *x, const int8_t *factor, const kg_product_params *p) {
    KG_ASSERT(kg_product_params_ok(p));
    KG_ASSERT(y && x && factor);
    if (p->shift < 32)
        multiply(y, x, factor, *p, ANY);
    else if (p->tflite)
        multiply(y, x, factor, *p, HIGH_TFLITE);
    else
        multiply(y, x, factor, *p, HIGH);
}

/* dx may be dy: the exponent is found before anything is written. */
void kg_product_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *factor,
                     const kg_product_grad_params *p) {
    KG_ASSERT(kg_product_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy) && factor);
    const int32_t exponent = dy->exponent;
    uint32_t seen = 0;
    int32_t shift = 0;
    for (int32_t pass = 0; pass < 2; pass++) {
        const int16_t *from = dy->mantissa;
        int16_t *to = dx->mantissa;
        for (int32_t i = 0; i < p->pixels; i++)
            for (int32_t c = 0; c < p->channels; c++) {
                const int32_t f = factor[i * p->pixel_step + c * p->channel_step] - p->factor_zero;
                const int32_t v = *from++ * f;
                if (!pass)
                    seen |= kg_magnitude(v);
                else
                    *to++ = (int16_t)(shift > 0 ? kg_round_to_odd(v, shift) : v * (1 << -shift));
            }
        shift = kg_bit_length(seen) - p->bits;
    }
    dx->exponent = seen ? exponent + shift : KG_ZERO_EXPONENT;
}

void kg_product_sum_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *x,
                         const kg_product_sum_grad_params *p) {
    KG_ASSERT(kg_product_sum_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy) && x);
    kg_block_writer writer = kg_block_begin(dx, p->results, 1, dy->exponent, p->bits);
    for (int32_t k = 0; k < p->results; k++) {
        int32_t sum = 0;
        for (int32_t t = 0; t < p->terms; t++) {
            const int32_t at = k * p->result_step + t * p->term_step;
            sum += dy->mantissa[at] * (x[at] - p->x_zero);
        }
        kg_block_put(&writer, k, 0, &sum, 1);
    }
    kg_block_end(&writer);
}
