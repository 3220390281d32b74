/* Means of the pixels that a sliding kernel sees, in any scale, and the way back. */
#include "kg_kernels.h"

#define GROUP       4  /* channels that are summed at once */
#define BELOW_POINT 16 /* bits taken off a product with a share */

/* sum * factor / n, rounded half to even. */
static int64_t nearest(int32_t sum, int32_t n, kg_factor f) {
    const int64_t product = (int64_t)sum * f.multiplier;
    int64_t quotient = product / n, rest = product % n;
    if (rest < 0) {
        quotient--;
        rest += n;
    }
    const int64_t y = quotient >> f.shift, half = (int64_t)1 << (f.shift - 1);
    const int64_t part = quotient & (2 * half - 1);
    return y + (part > half || (part == half && (rest || (y & 1))));
}

/* The code of a sum of n codes. */
static int8_t code_of(int32_t sum, int32_t n, const kg_averaging *a) {
    const kg_factor factor = {a->multiplier, a->shift};
    const int32_t centred = sum - n * a->x_zero;
    int64_t y;
    if (a->rule == KG_MEAN_AWAY)
        y = (sum < 0 ? sum - n / 2 : sum + n / 2) / n;
    else if (a->rule == KG_MEAN_TWICE)
        y = a->y_zero + kg_requantise_tflite(centred, factor);
    else
        y = a->y_zero + nearest(centred, n, factor);
    return (int8_t)(y < a->lowest ? a->lowest : y > a->highest ? a->highest : y);
}

KG_COLD void kg_mean_pool(int8_t *y, const int8_t *x, const kg_mean_pool_params *p) {
    KG_ASSERT(kg_mean_pool_params_ok(p));
    KG_ASSERT(y && x);
    const kg_window *g = &p->window;
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * g->stride_h - g->pad_top;
        const int32_t ky0 = kg_tap_begin(iy), ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
        for (int32_t ox = 0; ox < g->out_w; ox++) {
            const int32_t ix = ox * g->stride_w - g->pad_left;
            const int32_t kx0 = kg_tap_begin(ix), kx1 = kg_tap_end(ix, g->kernel_w, g->in_w);
            for (int32_t c = 0; c < g->in_c; c += GROUP) {
                const int32_t channels = kg_min(GROUP, g->in_c - c);
                int32_t sum[GROUP] = {0};
                for (int32_t ky = ky0; ky < ky1; ky++)
                    for (int32_t kx = kx0; kx < kx1; kx++) {
                        const int8_t *from = x + ((iy + ky) * g->in_w + ix + kx) * g->in_c + c;
                        for (int32_t k = 0; k < channels; k++) sum[k] += from[k];
                    }
                for (int32_t k = 0; k < channels; k++)
                    *y++ = code_of(sum[k], (ky1 - ky0) * (kx1 - kx0), &p->averaging);
            }
        }
    }
}

/* How many pixels a place that begins at `origin` sees along one axis. */
static int32_t seen(int32_t origin, int32_t kernel, int32_t size) {
    return kg_tap_end(origin, kernel, size) - kg_tap_begin(origin);
}

KG_COLD void kg_mean_pool_grad(kg_block16 *dx, const kg_block16 *dy,
                               const kg_mean_pool_grad_params *p) {
    KG_ASSERT(kg_mean_pool_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy));
    const kg_window *g = &p->window;
    kg_block_writer writer = kg_block_begin(dx, g->in_h * g->in_w, g->in_c,
                                            dy->exponent + BELOW_POINT - 31 - p->exponent, p->bits);
    for (int32_t c = 0; c < g->in_c; c += GROUP) {
        const int32_t n = kg_min(GROUP, g->in_c - c);
        for (int32_t iy = 0; iy < g->in_h; iy++) {
            const int32_t oy1 = kg_place_end(iy + g->pad_top, g->stride_h, g->out_h);
            for (int32_t ix = 0; ix < g->in_w; ix++) {
                const int32_t ox1 = kg_place_end(ix + g->pad_left, g->stride_w, g->out_w);
                int32_t acc[GROUP] = {0};
                for (int32_t oy = kg_place_begin(iy + g->pad_top, g->kernel_h, g->stride_h);
                     oy < oy1; oy++) {
                    const int32_t rows = seen(oy * g->stride_h - g->pad_top, g->kernel_h, g->in_h);
                    for (int32_t ox = kg_place_begin(ix + g->pad_left, g->kernel_w, g->stride_w);
                         ox < ox1; ox++) {
                        const int32_t columns =
                            seen(ox * g->stride_w - g->pad_left, g->kernel_w, g->in_w);
                        const int64_t share =
                            ((int64_t)INT32_MAX << p->exponent) / (rows * columns);
                        const int16_t *from = dy->mantissa + (oy * g->out_w + ox) * g->in_c + c;
                        for (int32_t k = 0; k < n; k++)
                            acc[k] += (int32_t)((from[k] * share) >> BELOW_POINT);
                    }
                }
                kg_block_put(&writer, iy * g->in_w + ix, c, acc, n);
            }
        }
    }
    kg_block_end(&writer);
}
