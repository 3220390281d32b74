/* Convolution and its gradients.
 *
 * All three go tile by tile over the weights: KG_ROWS filters (or columns) are fetched once, the
 * learned ones from where they live, and used for every pixel. */
#include "kg_kernels.h"

#include <string.h>

#define KG_ROWS 4

/* Filter o as `taps` * `in` contiguous weights: where it lies, or put together in `scratch`. */
static const int8_t *filter(const int8_t *w, const int8_t *learned, const kg_overlay *overlay,
                            int32_t o, int32_t taps, int32_t in, int8_t *scratch) {
    const int8_t *frozen = w + o * taps * in;
    if (!overlay->count) return frozen;
    if (overlay->axis == 0) {
        const int32_t slot = kg_overlay_find(overlay, o);
        return slot < 0 ? frozen : learned + slot * taps * in;
    }
    memcpy(scratch, frozen, (size_t)(taps * in));
    learned += o * taps * overlay->count;
    for (int32_t t = 0; t < taps; t++)
        for (int32_t j = 0; j < overlay->count; j++)
            scratch[t * in + overlay->index[j]] = *learned++;
    return scratch;
}

static inline void dot_rows(int32_t *acc, const int8_t *x, int32_t x_zero,
                            const int8_t *const *rows, int32_t at, int32_t n) {
    const int8_t *r0 = rows[0] + at, *r1 = rows[1] + at, *r2 = rows[2] + at, *r3 = rows[3] + at;
    int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    for (int32_t i = 0; i < n; i++) {
        const int16_t v = (int16_t)(x[i] - x_zero);
        a0 += v * r0[i];
        a1 += v * r1[i];
        a2 += v * r2[i];
        a3 += v * r3[i];
    }
    acc[0] += a0;
    acc[1] += a1;
    acc[2] += a2;
    acc[3] += a3;
}

/* shift: null, or sums are rounded as TFLite does. */
KG_INLINE void convolve(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                        const int32_t *b, int8_t *scratch, const kg_conv_params *p,
                        const int8_t *shift) {
    const kg_window *g = &p->window;
    const int32_t taps = g->kernel_h * g->kernel_w, in = g->in_c, length = taps * in;
    for (int32_t o = 0; o < g->out_c; o += KG_ROWS) {
        const int32_t n = kg_min(KG_ROWS, g->out_c - o);
        const int8_t *rows[KG_ROWS];
        for (int32_t k = 0; k < KG_ROWS; k++)
            rows[k] = k < n ? filter(w, learned, &p->overlay, o + k, taps, in, scratch + k * length)
                            : rows[0];
        kg_factor factor[KG_ROWS];
        for (int32_t k = 0; k < n; k++)
            factor[k] = shift ? kg_tflite_factor_of(&p->scaling, shift, o + k)
                              : kg_factor_of(&p->scaling, o + k);
        for (int32_t oy = 0; oy < g->out_h; oy++) {
            const int32_t iy = oy * g->stride_h - g->pad_top;
            const int32_t ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
            for (int32_t ox = 0; ox < g->out_w; ox++) {
                const int32_t ix = ox * g->stride_w - g->pad_left;
                const int32_t kx0 = kg_tap_begin(ix), kx1 = kg_tap_end(ix, g->kernel_w, g->in_w);
                int32_t acc[KG_ROWS] = {0};
                for (int32_t ky = kg_tap_begin(iy); ky < ky1; ky++)
                    dot_rows(acc, x + ((iy + ky) * g->in_w + ix + kx0) * in, p->x_zero, rows,
                             (ky * g->kernel_w + kx0) * in, (kx1 - kx0) * in);
                int8_t *out = y + (oy * g->out_w + ox) * g->out_c + o;
                for (int32_t k = 0; k < n; k++) {
                    const int32_t sum = kg_add_wrapping(acc[k], b[o + k]);
                    out[k] = kg_clip_i8(p->y_zero + (shift ? kg_requantise_tflite(sum, factor[k])
                                                           : kg_requantise(sum, factor[k])));
                }
            }
        }
    }
}

void kg_conv(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned, const int32_t *b,
             int8_t *scratch, const kg_conv_params *p) {
    KG_ASSERT(kg_conv_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->overlay));
    convolve(y, x, w, learned, b, scratch, p, 0);
}

void kg_conv_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                     const int32_t *b, int8_t *scratch, const kg_conv_limited_params *p) {
    KG_ASSERT(kg_conv_limited_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->layer.overlay));
    if (p->limits.shift)
        convolve(y, x, w, learned, b, scratch, &p->layer, p->limits.shift);
    else
        kg_conv(y, x, w, learned, b, scratch, &p->layer);
    kg_limit_map(y, &p->layer.window, &p->limits);
}

/* Weights of input channel i as [taps][out], so that dX becomes contiguous dot products. */
static void column(int8_t *to, const int8_t *w, const int8_t *learned, const kg_overlay *overlay,
                   int32_t i, int32_t taps, int32_t in, int32_t out) {
    const int32_t count = overlay->count;
    const int32_t slot = count && overlay->axis == 3 ? kg_overlay_find(overlay, i) : -1;
    int32_t next = 0;
    for (int32_t o = 0; o < out; o++) {
        const int8_t *from = w + o * taps * in + i;
        int32_t stride = in;
        if (slot >= 0) {
            from = learned + o * taps * count + slot;
            stride = count;
        } else if (count && overlay->axis == 0 && next < count && overlay->index[next] == o) {
            from = learned + next++ * taps * in + i;
        }
        for (int32_t t = 0; t < taps; t++) to[t * out + o] = from[t * stride];
    }
}

static inline void dot_columns(int32_t *acc, const int16_t *g, const int8_t *w, int32_t stride,
                               int32_t n) {
    const int8_t *c0 = w, *c1 = c0 + stride, *c2 = c1 + stride, *c3 = c2 + stride;
    int32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    for (int32_t i = 0; i < n; i++) {
        a0 += g[i] * c0[i];
        a1 += g[i] * c1[i];
        a2 += g[i] * c2[i];
        a3 += g[i] * c3[i];
    }
    acc[0] += a0;
    acc[1] += a1;
    acc[2] += a2;
    acc[3] += a3;
}

void kg_conv_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                        const int8_t *learned, int8_t *scratch,
                        const kg_conv_input_grad_params *p) {
    KG_ASSERT(kg_conv_input_grad_params_ok(p));
    KG_ASSERT(kg_has_input_grad(dx, dy, w, learned, scratch, &p->overlay));
    const kg_window *g = &p->window;
    const int32_t taps = g->kernel_h * g->kernel_w, in = g->in_c, out = g->out_c;
    kg_block_writer writer = kg_block_begin(dx, g->in_h * g->in_w, in, dy->exponent, p->bits);
    for (int32_t i = 0; i < in; i += KG_ROWS) {
        const int32_t n = kg_min(KG_ROWS, in - i);
        for (int32_t k = 0; k < KG_ROWS; k++)
            column(scratch + k * taps * out, w, learned, &p->overlay, i + kg_min(k, n - 1), taps,
                   in, out);
        for (int32_t iy = 0; iy < g->in_h; iy++)
            for (int32_t ix = 0; ix < g->in_w; ix++) {
                int32_t acc[KG_ROWS] = {0};
                for (int32_t ky = 0; ky < g->kernel_h; ky++) {
                    const int32_t y = iy + g->pad_top - ky, oy = y / g->stride_h;
                    if (y < 0 || oy * g->stride_h != y || oy >= g->out_h) continue;
                    for (int32_t kx = 0; kx < g->kernel_w; kx++) {
                        const int32_t x = ix + g->pad_left - kx, ox = x / g->stride_w;
                        if (x < 0 || ox * g->stride_w != x || ox >= g->out_w) continue;
                        dot_columns(acc, dy->mantissa + (oy * g->out_w + ox) * out,
                                    scratch + (ky * g->kernel_w + kx) * out, taps * out, out);
                    }
                }
                kg_block_put(&writer, iy * g->in_w + ix, i, acc, n);
            }
    }
    kg_block_end(&writer);
}
