/* Writes mantissas whose exponent is not known until the last one (kg_kernels.h). */
#include "kg_kernels.h"

/* Makes room for all that was seen, before channels c .. c + n of a pixel are written. */
void kg_block_widen(kg_block_writer *w, int32_t pixel, int32_t c, int32_t n) {
    const int32_t shift = kg_bit_length(w->seen) - w->bits, more = shift - w->shift;
    int16_t *m = w->block->mantissa;
    for (int32_t i = 0; i < w->pixels; i++, m += w->channels) {
        const int32_t written = i < pixel ? c + n : c;
        KG_ROLLED
        for (int32_t k = 0; k < written; k++) m[k] = (int16_t)kg_round_to_odd(m[k], more);
    }
    w->shift = shift;
}

void kg_block_end(kg_block_writer *w) {
    const int32_t shift = kg_bit_length(w->seen) - w->bits, size = w->pixels * w->channels;
    int16_t *m = w->block->mantissa;
    if (shift < 0)
        for (int32_t i = 0; i < size; i++) m[i] = (int16_t)(m[i] * (1 << -shift));
    w->block->exponent = w->seen ? w->exponent + shift : KG_ZERO_EXPONENT;
}
