/* Gradients of the weights of convolutions, filter by filter. */
#include "kg_kernels.h"

#include <string.h>

/* What computes the sums of a filter: a variant has its own. */
#ifndef KG_CONV_ROW
#define KG_CONV_ROW conv_row
#endif

/* Sums for filter o: row[tap][i] = sum over pixels of (x - x_zero) * dy. */
static void conv_row(int32_t *row, int32_t o, const int8_t *x, const kg_block16 *dy,
                     const kg_window *g, int32_t x_zero) {
    const int32_t in = g->in_c;
    memset(row, 0, (size_t)(g->kernel_h * g->kernel_w * in) * sizeof *row);
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * g->stride_h - g->pad_top;
        const int32_t ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
        for (int32_t ox = 0; ox < g->out_w; ox++) {
            const int32_t d = dy->mantissa[(oy * g->out_w + ox) * g->out_c + o];
            if (!d) continue; /* clipped */
            const int32_t ix = ox * g->stride_w - g->pad_left;
            const int32_t kx0 = kg_tap_begin(ix), kx1 = kg_tap_end(ix, g->kernel_w, g->in_w);
            for (int32_t ky = kg_tap_begin(iy); ky < ky1; ky++) {
                int32_t *to = row + (ky * g->kernel_w + kx0) * in;
                const int8_t *from = x + ((iy + ky) * g->in_w + ix + kx0) * in;
                for (int32_t i = 0; i < (kx1 - kx0) * in; i++) to[i] += d * (from[i] - x_zero);
            }
        }
    }
}

void kg_conv_weight_grad(kg_block32 *dw, const int8_t *x, const kg_block16 *dy,
                         const kg_conv_weight_grad_params *p) {
    KG_ASSERT(kg_conv_weight_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dw) && kg_aligned(dy) && x);
    const kg_window *g = &p->window;
    const int32_t length = g->kernel_h * g->kernel_w * g->in_c;
    dw->exponent = dy->exponent;
    for (int32_t o = 0; o < g->out_c; o++)
        KG_CONV_ROW(dw->mantissa + o * length, o, x, dy, g, p->x_zero);
}

void kg_conv_weight_update(void *w, const int8_t *x, const kg_block16 *dy, void *s0, void *s1,
                           const float *lr, const int32_t *clock, void *scratch,
                           const kg_conv_weight_update_params *p) {
    KG_ASSERT(kg_conv_weight_update_params_ok(p));
    KG_ASSERT(kg_aligned(dy) && kg_aligned(lr) && kg_aligned(scratch) && w && x);
    for (int32_t o = 0; o < p->window.out_c; o++) {
        KG_CONV_ROW(scratch, o, x, dy, &p->window, p->x_zero);
        kg_update_row_i32(w, o, scratch, dy->exponent, s0, s1, lr, clock, &p->update);
    }
}
