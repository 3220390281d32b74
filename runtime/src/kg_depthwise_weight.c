/* Gradients of the weights of depthwise convolutions. */
#include "kg_kernels.h"

#include <string.h>

/* Sums for channel c: row[tap] = sum over pixels of (x - x_zero) * dy. */
static void depthwise_row(int32_t *row, int32_t c, const int8_t *x, const kg_block16 *dy,
                          const kg_window *g, int32_t x_zero) {
    memset(row, 0, (size_t)(g->kernel_h * g->kernel_w) * sizeof *row);
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * g->stride_h - g->pad_top;
        const int32_t ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
        int32_t ix = -g->pad_left;
        for (int32_t ox = 0; ox < g->out_w; ox++, ix += g->stride_w) {
            const int32_t d = dy->mantissa[(oy * g->out_w + ox) * g->out_c + c];
            if (!d) continue; /* clipped */
            const int32_t kx1 = kg_tap_end(ix, g->kernel_w, g->in_w);
            for (int32_t ky = kg_tap_begin(iy); ky < ky1; ky++)
                for (int32_t kx = kg_tap_begin(ix); kx < kx1; kx++)
                    row[ky * g->kernel_w + kx] +=
                        d * (x[((iy + ky) * g->in_w + ix + kx) * g->in_c + c] - x_zero);
        }
    }
}

void kg_depthwise_weight_grad(kg_block32 *dw, const int8_t *x, const kg_block16 *dy,
                              const kg_depthwise_weight_grad_params *p) {
    KG_ASSERT(kg_depthwise_weight_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dw) && kg_aligned(dy) && x);
    const kg_window *g = &p->window;
    const int32_t taps = g->kernel_h * g->kernel_w, channels = g->in_c;
    dw->exponent = dy->exponent;
    /* taps at a time would read the map once, but this is the definition, not the fast path */
    for (int32_t c = 0; c < channels; c++)
        for (int32_t t = 0; t < taps; t++) dw->mantissa[t * channels + c] = 0;
    for (int32_t oy = 0; oy < g->out_h; oy++)
        for (int32_t ox = 0; ox < g->out_w; ox++)
            for (int32_t ky = 0; ky < g->kernel_h; ky++)
                for (int32_t kx = 0; kx < g->kernel_w; kx++) {
                    const int32_t iy = oy * g->stride_h - g->pad_top + ky;
                    const int32_t ix = ox * g->stride_w - g->pad_left + kx;
                    if (iy < 0 || iy >= g->in_h || ix < 0 || ix >= g->in_w) continue;
                    const int16_t *d = dy->mantissa + (oy * g->out_w + ox) * channels;
                    const int8_t *from = x + (iy * g->in_w + ix) * channels;
                    int32_t *to = dw->mantissa + (ky * g->kernel_w + kx) * channels;
                    for (int32_t c = 0; c < channels; c++) to[c] += d[c] * (from[c] - p->x_zero);
                }
}

void kg_depthwise_weight_update(void *w, const int8_t *x, const kg_block16 *dy, void *s0, void *s1,
                                const float *lr, const int32_t *clock, void *scratch,
                                const kg_depthwise_weight_update_params *p) {
    KG_ASSERT(kg_depthwise_weight_update_params_ok(p));
    KG_ASSERT(kg_aligned(dy) && kg_aligned(lr) && kg_aligned(scratch) && w && x);
    for (int32_t c = 0; c < p->window.in_c; c++) {
        depthwise_row(scratch, c, x, dy, &p->window, p->x_zero);
        kg_update_row_i32(w, c, scratch, dy->exponent, s0, s1, lr, clock, &p->update);
    }
}
