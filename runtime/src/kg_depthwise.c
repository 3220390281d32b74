/* Depthwise convolution and its gradients, KG_CHANNELS channels at a time: their filters are
 * fetched into scratch memory once, the learned ones from where they live. */
#include "kg_kernels.h"

#include <string.h>

#define KG_CHANNELS 16

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

/* Called with n = KG_CHANNELS wherever possible, so that compilers see a constant. */
static inline void forward(int32_t *acc, const int8_t *x, const int8_t *w, int32_t x_zero,
                           int32_t n) {
    for (int32_t k = 0; k < n; k++) acc[k] += (int16_t)(x[k] - x_zero) * w[k];
}

static inline void backward(int32_t *acc, const int16_t *g, const int8_t *w, int32_t n) {
    for (int32_t k = 0; k < n; k++) acc[k] += g[k] * w[k];
}

void kg_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                  const int32_t *b, int8_t *scratch, const kg_depthwise_params *p) {
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c;
    for (int32_t c = 0; c < channels; c += KG_CHANNELS) {
        const int32_t n = kg_min(KG_CHANNELS, channels - c);
        fetch(scratch, w, learned, &p->overlay, c, n, g->kernel_h * g->kernel_w, channels);
        for (int32_t oy = 0; oy < g->out_h; oy++) {
            const int32_t iy = oy * g->stride - g->pad_top;
            const int32_t ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
            for (int32_t ox = 0; ox < g->out_w; ox++) {
                const int32_t ix = ox * g->stride - g->pad_left;
                const int32_t kx1 = kg_tap_end(ix, g->kernel_w, g->in_w);
                int32_t acc[KG_CHANNELS] = {0};
                for (int32_t ky = kg_tap_begin(iy); ky < ky1; ky++)
                    for (int32_t kx = kg_tap_begin(ix); kx < kx1; kx++) {
                        const int8_t *from = x + ((iy + ky) * g->in_w + ix + kx) * channels + c;
                        const int8_t *filter = scratch + (ky * g->kernel_w + kx) * KG_CHANNELS;
                        if (n == KG_CHANNELS)
                            forward(acc, from, filter, p->x_zero, KG_CHANNELS);
                        else
                            forward(acc, from, filter, p->x_zero, n);
                    }
                int8_t *out = y + (oy * g->out_w + ox) * channels + c;
                for (int32_t k = 0; k < n; k++)
                    out[k] = kg_clip_i8(p->y_zero + kg_requantise(acc[k] + b[c + k],
                                                                  p->multiplier[c + k],
                                                                  p->shift[c + k]));
            }
        }
    }
}

void kg_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                             const int8_t *learned, int8_t *scratch,
                             const kg_depthwise_input_grad_params *p) {
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c;
    kg_block_writer writer;
    kg_block_begin(&writer, dx, g->in_h * g->in_w * channels, dy->exponent, p->bits);
    for (int32_t c = 0; c < channels; c += KG_CHANNELS) {
        const int32_t n = kg_min(KG_CHANNELS, channels - c);
        fetch(scratch, w, learned, &p->overlay, c, n, g->kernel_h * g->kernel_w, channels);
        for (int32_t iy = 0; iy < g->in_h; iy++)
            for (int32_t ix = 0; ix < g->in_w; ix++) {
                int32_t acc[KG_CHANNELS] = {0};
                for (int32_t ky = 0; ky < g->kernel_h; ky++) {
                    const int32_t y = iy + g->pad_top - ky, oy = y / g->stride;
                    if (y < 0 || oy * g->stride != y || oy >= g->out_h) continue;
                    for (int32_t kx = 0; kx < g->kernel_w; kx++) {
                        const int32_t x = ix + g->pad_left - kx, ox = x / g->stride;
                        if (x < 0 || ox * g->stride != x || ox >= g->out_w) continue;
                        const int16_t *from = dy->mantissa + (oy * g->out_w + ox) * channels + c;
                        const int8_t *filter = scratch + (ky * g->kernel_w + kx) * KG_CHANNELS;
                        if (n == KG_CHANNELS)
                            backward(acc, from, filter, KG_CHANNELS);
                        else
                            backward(acc, from, filter, n);
                    }
                }
                for (int32_t k = 0; k < n; k++)
                    kg_block_put(&writer, (iy * g->in_w + ix) * channels + c + k, acc[k]);
            }
    }
    kg_block_end(&writer);
}

/* Sums for channel c: row[tap] = sum over pixels of (x - x_zero) * dy. */
static void weight_row(int32_t *row, int32_t c, const int8_t *x, const kg_block16 *dy,
                       const kg_window *g, int32_t x_zero) {
    memset(row, 0, (size_t)(g->kernel_h * g->kernel_w) * sizeof *row);
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * g->stride - g->pad_top;
        const int32_t ky1 = kg_tap_end(iy, g->kernel_h, g->in_h);
        for (int32_t ox = 0; ox < g->out_w; ox++) {
            const int32_t d = dy->mantissa[(oy * g->out_w + ox) * g->out_c + c];
            if (!d) continue; /* clipped */
            const int32_t ix = ox * g->stride - g->pad_left;
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
                    const int32_t iy = oy * g->stride - g->pad_top + ky;
                    const int32_t ix = ox * g->stride - g->pad_left + kx;
                    if (iy < 0 || iy >= g->in_h || ix < 0 || ix >= g->in_w) continue;
                    const int16_t *d = dy->mantissa + (oy * g->out_w + ox) * channels;
                    const int8_t *from = x + (iy * g->in_w + ix) * channels;
                    int32_t *to = dw->mantissa + (ky * g->kernel_w + kx) * channels;
                    for (int32_t c = 0; c < channels; c++) to[c] += d[c] * (from[c] - p->x_zero);
                }
}

void kg_depthwise_weight_update(void *w, const int8_t *x, const kg_block16 *dy, float *s0,
                                float *s1, const float *lr, const int32_t *clock, void *scratch,
                                const kg_depthwise_weight_update_params *p) {
    for (int32_t c = 0; c < p->window.in_c; c++) {
        weight_row(scratch, c, x, dy, &p->window, p->x_zero);
        kg_update_row_i32(w, c, scratch, dy->exponent, s0, s1, lr, clock, &p->update);
    }
}
