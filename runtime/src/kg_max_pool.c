/* The largest code of each place of a sliding kernel, and the way back to where it was. */
#include "kg_kernels.h"

#include <string.h>

#define GROUP 4 /* channels whose gradients are summed at once */

void kg_max_pool(int8_t *y, const int8_t *x, const kg_max_pool_params *p) {
    KG_ASSERT(kg_max_pool_params_ok(p));
    KG_ASSERT(y && x);
    const kg_window *g = &p->window;
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * g->stride_h - g->pad_top;
        const int32_t ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
        for (int32_t ox = 0; ox < g->out_w; ox++, y += g->in_c) {
            const int32_t ix = ox * g->stride_w - g->pad_left;
            const int32_t kx1 = kg_tap_end(ix, g->kernel_w, g->in_w);
            memset(y, -128, (size_t)g->in_c);
            for (int32_t ky = kg_tap_begin(iy); ky < ky1; ky++)
                for (int32_t kx = kg_tap_begin(ix); kx < kx1; kx++) {
                    const int8_t *from = x + ((iy + ky) * g->in_w + ix + kx) * g->in_c;
                    for (int32_t c = 0; c < g->in_c; c++)
                        if (from[c] > y[c]) y[c] = from[c];
                }
        }
    }
}

/* Positions, of 1 or 2 bytes. */
static int32_t position(const void *at, int32_t i, int32_t bytes) {
    return bytes == 1 ? ((const uint8_t *)at)[i] : ((const int16_t *)at)[i];
}
static void put_position(void *at, int32_t i, int32_t bytes, int32_t value) {
    if (bytes == 1)
        ((uint8_t *)at)[i] = (uint8_t)value;
    else
        ((int16_t *)at)[i] = (int16_t)value;
}

void kg_arg_max(void *at, const int8_t *x, const kg_arg_max_params *p) {
    KG_ASSERT(kg_arg_max_params_ok(p));
    KG_ASSERT(at && x);
    const kg_window *g = &p->window;
    int32_t i = 0;
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * g->stride_h - g->pad_top;
        const int32_t ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
        for (int32_t ox = 0; ox < g->out_w; ox++) {
            const int32_t ix = ox * g->stride_w - g->pad_left;
            const int32_t kx1 = kg_tap_end(ix, g->kernel_w, g->in_w);
            for (int32_t c = 0; c < g->in_c; c++) {
                int32_t best = -129, found = 0;
                for (int32_t ky = kg_tap_begin(iy); ky < ky1; ky++)
                    for (int32_t kx = kg_tap_begin(ix); kx < kx1; kx++) {
                        const int32_t code = x[((iy + ky) * g->in_w + ix + kx) * g->in_c + c];
                        if (code <= best) continue;
                        best = code;
                        found = ky * g->kernel_w + kx;
                    }
                put_position(at, i++, p->bytes, found);
            }
        }
    }
}

void kg_max_pool_grad(kg_block16 *dx, const kg_block16 *dy, const void *at,
                      const kg_max_pool_grad_params *p) {
    KG_ASSERT(kg_max_pool_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy) && at);
    const kg_window *g = &p->window;
    kg_block_writer writer = kg_block_begin(dx, g->in_h * g->in_w, g->in_c, dy->exponent, p->bits);
    for (int32_t c = 0; c < g->in_c; c += GROUP) {
        const int32_t n = kg_min(GROUP, g->in_c - c);
        for (int32_t iy = 0; iy < g->in_h; iy++) {
            const int32_t oy1 = kg_place_end(iy + g->pad_top, g->stride_h, g->out_h);
            for (int32_t ix = 0; ix < g->in_w; ix++) {
                const int32_t ox1 = kg_place_end(ix + g->pad_left, g->stride_w, g->out_w);
                int32_t acc[GROUP] = {0};
                for (int32_t oy = kg_place_begin(iy + g->pad_top, g->kernel_h, g->stride_h);
                     oy < oy1; oy++) {
                    const int32_t ky = iy + g->pad_top - oy * g->stride_h;
                    for (int32_t ox = kg_place_begin(ix + g->pad_left, g->kernel_w, g->stride_w);
                         ox < ox1; ox++) {
                        const int32_t kx = ix + g->pad_left - ox * g->stride_w;
                        const int32_t from = (oy * g->out_w + ox) * g->in_c + c;
                        for (int32_t k = 0; k < n; k++)
                            if (position(at, from + k, p->bytes) == ky * g->kernel_w + kx)
                                acc[k] += dy->mantissa[from + k];
                    }
                }
                kg_block_put(&writer, iy * g->in_w + ix, c, acc, n);
            }
        }
    }
    kg_block_end(&writer);
}
