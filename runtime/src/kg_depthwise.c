/* Depthwise convolution and its gradients, KG_CHANNELS channels at a time: their filters are
 * fetched into scratch memory once, the learned ones from where they live. */
#include "kg_kernels.h"

#include <string.h>

#define KG_CHANNELS 8

/* Filters of channels c .. c + n as [taps][KG_CHANNELS]. */
static void fetch(int8_t *to, const int8_t *w, const int8_t *learned, const kg_overlay *overlay,
                  int32_t c, int32_t n, int32_t taps, int32_t channels) {
    for (int32_t t = 0; t < taps; t++)
        memcpy(to + t * KG_CHANNELS, w + t * channels + c, (size_t)n);
    if (!overlay->count) return;
    for (int32_t k = 0; k < n; k++) {
        const int32_t slot = kg_overlay_find(overlay, c + k);
        if (slot < 0) continue;
        for (int32_t t = 0; t < taps; t++)
            to[t * KG_CHANNELS + k] = learned[t * overlay->count + slot];
    }
}

/* shift: null, or sums are rounded as TFLite does. */
KG_INLINE void convolve(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                        const int32_t *b, int8_t *scratch, const kg_depthwise_params *p,
                        const int8_t *shift) {
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c;
    for (int32_t c = 0; c < channels; c += KG_CHANNELS) {
        const int32_t n = kg_min(KG_CHANNELS, channels - c);
        fetch(scratch, w, learned, &p->overlay, c, n, g->kernel_h * g->kernel_w, channels);
        kg_factor factor[KG_CHANNELS];
        for (int32_t k = 0; k < n; k++)
            factor[k] = shift ? kg_tflite_factor_of(&p->scaling, shift, c + k)
                              : kg_factor_of(&p->scaling, c + k);
        for (int32_t oy = 0; oy < g->out_h; oy++) {
            const int32_t iy = oy * g->stride_h - g->pad_top;
            const int32_t ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
            for (int32_t ox = 0; ox < g->out_w; ox++) {
                const int32_t ix = ox * g->stride_w - g->pad_left;
                const int32_t kx1 = kg_tap_end(ix, g->kernel_w, g->in_w);
                int32_t acc[KG_CHANNELS] = {0};
                for (int32_t ky = kg_tap_begin(iy); ky < ky1; ky++)
                    for (int32_t kx = kg_tap_begin(ix); kx < kx1; kx++) {
                        const int8_t *from = x + ((iy + ky) * g->in_w + ix + kx) * channels + c;
                        const int8_t *filter = scratch + (ky * g->kernel_w + kx) * KG_CHANNELS;
                        for (int32_t k = 0; k < n; k++) acc[k] += (from[k] - p->x_zero) * filter[k];
                    }
                int8_t *out = y + (oy * g->out_w + ox) * channels + c;
                for (int32_t k = 0; k < n; k++) {
                    const int32_t sum = kg_add_wrapping(acc[k], b[c + k]);
                    out[k] = kg_clip_i8(p->y_zero + (shift ? kg_requantise_tflite(sum, factor[k])
                                                           : kg_requantise(sum, factor[k])));
                }
            }
        }
    }
}

void kg_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                  const int32_t *b, int8_t *scratch, const kg_depthwise_params *p) {
    KG_ASSERT(kg_depthwise_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->overlay));
    convolve(y, x, w, learned, b, scratch, p, 0);
}

void kg_depthwise_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                          const int32_t *b, int8_t *scratch, const kg_depthwise_limited_params *p) {
    KG_ASSERT(kg_depthwise_limited_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->layer.overlay));
    if (p->limits.shift)
        convolve(y, x, w, learned, b, scratch, &p->layer, p->limits.shift);
    else
        kg_depthwise(y, x, w, learned, b, scratch, &p->layer);
    kg_limit_map(y, &p->layer.window, &p->limits);
}

/* dx may be dy: rows of dy are copied, and kept as long as they are needed, before a row of dx is
 * written over them. */
void kg_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                             const int8_t *learned, int8_t *scratch,
                             const kg_depthwise_input_grad_params *p) {
    KG_ASSERT(kg_depthwise_input_grad_params_ok(p));
    KG_ASSERT(kg_has_input_grad(dx, dy, w, learned, scratch, &p->overlay));
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c, taps = g->kernel_h * g->kernel_w;
    const int32_t row = g->out_w * KG_CHANNELS;
    int16_t *rows = (int16_t *)(void *)scratch; /* row oy is the oy % kernel_h-th */
    int8_t *filters = (int8_t *)(rows + g->kernel_h * row);
    kg_block_writer writer = kg_block_begin(dx, g->in_h * g->in_w, channels, dy->exponent, p->bits);
    for (int32_t c = 0; c < channels; c += KG_CHANNELS) {
        const int32_t n = kg_min(KG_CHANNELS, channels - c);
        int32_t copied = 0;
        fetch(filters, w, learned, &p->overlay, c, n, taps, channels);
        for (int32_t iy = 0; iy < g->in_h; iy++) {
            const int32_t end = kg_min(g->out_h, (iy + g->pad_top) / g->stride_h + 1);
            for (; copied < end; copied++) {
                const int16_t *from = dy->mantissa + copied * g->out_w * channels + c;
                int16_t *to = rows + copied % g->kernel_h * row;
                for (int32_t ox = 0; ox < g->out_w; ox++)
                    memcpy(to + ox * KG_CHANNELS, from + ox * channels, (size_t)n * sizeof *to);
            }
            for (int32_t ix = 0; ix < g->in_w; ix++) {
                int32_t acc[KG_CHANNELS] = {0};
                for (int32_t ky = 0; ky < g->kernel_h; ky++) {
                    const int32_t y = iy + g->pad_top - ky, oy = y / g->stride_h;
                    if (y < 0 || oy * g->stride_h != y || oy >= g->out_h) continue;
                    for (int32_t kx = 0; kx < g->kernel_w; kx++) {
                        const int32_t x = ix + g->pad_left - kx, ox = x / g->stride_w;
                        if (x < 0 || ox * g->stride_w != x || ox >= g->out_w) continue;
                        const int16_t *from = rows + oy % g->kernel_h * row + ox * KG_CHANNELS;
                        const int8_t *filter = filters + (ky * g->kernel_w + kx) * KG_CHANNELS;
                        for (int32_t k = 0; k < n; k++) acc[k] += from[k] * filter[k];
                    }
                }
                kg_block_put(&writer, iy * g->in_w + ix, c, acc, n);
            }
        }
    }
    kg_block_end(&writer);
}
