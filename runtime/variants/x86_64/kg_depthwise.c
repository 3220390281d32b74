/* Depthwise convolution and its input gradient with AVX2.  Same integers as src/kg_depthwise.c,
 * which this file replaces.
 *
 * Sixteen channels at a time, two taps in one multiplication.  The last block starts early
 * enough to be whole: it computes some channels again. */
#ifndef __AVX2__
#include "../../src/kg_depthwise.c"
#else

#include "kg_x86.h"

#include <string.h>

#define CHANNELS 16
#define PIXELS   4

/* CHANNELS pairs of int16 or their sums, in the order of unpacking: 0..3 8..11, 4..7 12..15. */
typedef struct {
    __m256i low, high;
} sums;

static inline sums pair(__m256i a, __m256i b) {
    return (sums){_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)};
}

static inline void multiply_add(sums *acc, sums x, sums w) {
    const __m256i low = _mm256_madd_epi16(x.low, w.low);
    const __m256i high = _mm256_madd_epi16(x.high, w.high);
    acc->low = _mm256_add_epi32(acc->low, low);
    acc->high = _mm256_add_epi32(acc->high, high);
}

static inline __m256i first8(sums acc) {
    return _mm256_permute2x128_si256(acc.low, acc.high, 0x20);
}
static inline __m256i last8(sums acc) { return _mm256_permute2x128_si256(acc.low, acc.high, 0x31); }

static inline int32_t first_channel(int32_t c, int32_t channels) {
    return kg_max(0, kg_min(c, channels - CHANNELS));
}

/* Filters of channels c .. c + n as [taps][CHANNELS]. */
static void fetch(int8_t *to, const int8_t *w, const int8_t *learned, const kg_overlay *overlay,
                  int32_t c, int32_t n, int32_t taps, int32_t channels) {
    for (int32_t t = 0; t < taps; t++) memcpy(to + t * CHANNELS, w + t * channels + c, (size_t)n);
    for (int32_t k = 0; k < n; k++) {
        const int32_t slot = kg_overlay_find(overlay, c + k);
        if (slot < 0) continue;
        for (int32_t t = 0; t < taps; t++)
            to[t * CHANNELS + k] = learned[t * overlay->count + slot];
    }
}

/// Forward ///

/* n int8, less zero. */
static inline __m256i centred(const int8_t *x, __m256i zero, int32_t n) {
    int8_t copy[CHANNELS] = {0};
    if (n < CHANNELS) x = memcpy(copy, x, (size_t)n);
    return _mm256_sub_epi16(widen(x), zero);
}

typedef struct {
    const kg_depthwise_params *p;
    const int8_t *x, *filter; /* from the first channel of the block */
    __m256i zero;
} source;

/* Sums of `pixels` neighbours, none of whose columns is padding. */
static inline void inner(sums *acc, const source *s, int32_t iy, int32_t ix, int32_t pixels,
                         int32_t n) {
    const kg_window *g = &s->p->window;
    const int32_t channels = g->in_c, step = g->stride * channels;
    for (int32_t ky = kg_tap_begin(iy); ky < kg_tap_end(iy, g->kernel_h, g->in_h); ky++) {
        const int8_t *x = s->x + ((iy + ky) * g->in_w + ix) * channels;
        const int8_t *w = s->filter + ky * g->kernel_w * CHANNELS;
        int32_t kx = 0;
        for (; kx + 1 < g->kernel_w; kx += 2, x += 2 * channels, w += 2 * CHANNELS) {
            const sums filter = pair(widen(w), widen(w + CHANNELS));
            for (int32_t j = 0; j < pixels; j++)
                multiply_add(acc + j,
                             pair(centred(x + j * step, s->zero, n),
                                  centred(x + j * step + channels, s->zero, n)),
                             filter);
        }
        if (kx == g->kernel_w) continue;
        const __m256i none = _mm256_setzero_si256();
        const sums filter = pair(widen(w), none);
        for (int32_t j = 0; j < pixels; j++)
            multiply_add(acc + j, pair(centred(x + j * step, s->zero, n), none), filter);
    }
}

/* Sums of one pixel anywhere. */
static inline void outer(sums *acc, const source *s, int32_t iy, int32_t ix, int32_t n) {
    const kg_window *g = &s->p->window;
    const int32_t channels = g->in_c, end = kg_tap_end(ix, g->kernel_w, g->in_w);
    const __m256i none = _mm256_setzero_si256();
    for (int32_t ky = kg_tap_begin(iy); ky < kg_tap_end(iy, g->kernel_h, g->in_h); ky++)
        for (int32_t kx = kg_tap_begin(ix); kx < end; kx += 2) {
            const int8_t *x = s->x + ((iy + ky) * g->in_w + ix + kx) * channels;
            const int8_t *w = s->filter + (ky * g->kernel_w + kx) * CHANNELS;
            const int32_t two = kx + 1 < end;
            const __m256i next = two ? centred(x + channels, s->zero, n) : none;
            multiply_add(acc, pair(centred(x, s->zero, n), next),
                         pair(widen(w), two ? widen(w + CHANNELS) : none));
        }
}

static inline void block(int8_t *y, const int32_t *b, const source *s, int32_t c, int32_t n) {
    const kg_depthwise_params *p = s->p;
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c, n0 = kg_min(n, LANES), n1 = n - n0;
    const scaler scale0 = make_scaler(p->multiplier + c, p->shift + c, p->y_zero, n0);
    const scaler scale1 =
        n1 ? make_scaler(p->multiplier + c + LANES, p->shift + c + LANES, p->y_zero, n1) : scale0;
    const __m256i b0 = load32(b + c, n0), b1 = n1 ? load32(b + c + LANES, n1) : b0;
    const int32_t first = (g->pad_left + g->stride - 1) / g->stride;
    const int32_t last = (g->in_w - g->kernel_w + g->pad_left) / g->stride;
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * g->stride - g->pad_top;
        for (int32_t ox = 0, m; ox < g->out_w; ox += m) {
            const int32_t ix = ox * g->stride - g->pad_left;
            sums acc[PIXELS] = {{{0}, {0}}};
            m = ox >= first && ox + PIXELS - 1 <= kg_min(last, g->out_w - 1) ? PIXELS : 1;
            if (m == PIXELS)
                inner(acc, s, iy, ix, PIXELS, n);
            else
                outer(acc, s, iy, ix, n);
            __m256i left[PIXELS], right[PIXELS];
            for (int32_t j = 0; j < PIXELS; j++) {
                left[j] = _mm256_add_epi32(first8(acc[j]), b0);
                right[j] = _mm256_add_epi32(last8(acc[j]), b1);
            }
            int8_t *out = y + (oy * g->out_w + ox) * channels + c;
            scale4(out, channels, left, m, n0, &scale0);
            if (n1) scale4(out + LANES, channels, right, m, n1, &scale1);
        }
    }
}

void kg_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                  const int32_t *b, int8_t *scratch, const kg_depthwise_params *p) {
    const int32_t channels = p->window.in_c, n = kg_min(CHANNELS, channels);
    for (int32_t i = 0; i < channels; i += CHANNELS) {
        const int32_t c = first_channel(i, channels);
        fetch(scratch, w, learned, &p->overlay, c, n, p->window.kernel_h * p->window.kernel_w,
              channels);
        const source s = {p, x + c, scratch, _mm256_set1_epi16((int16_t)p->x_zero)};
        if (n == CHANNELS)
            block(y, b, &s, c, CHANNELS);
        else
            block(y, b, &s, c, n);
    }
}

/// Input gradient ///

static inline __m256i load16(const int16_t *x, int32_t n) {
    int16_t copy[CHANNELS] = {0};
    if (n < CHANNELS) x = memcpy(copy, x, (size_t)n * sizeof *x);
    return _mm256_loadu_si256((const __m256i *)x);
}

static inline sums input_pixel(const int16_t *dy, const int8_t *filter, const kg_window *g,
                               int32_t iy, int32_t ix, int32_t n) {
    const __m256i none = _mm256_setzero_si256();
    sums acc = {none, none};
    for (int32_t ky = 0; ky < g->kernel_h; ky++) {
        const int32_t y = iy + g->pad_top - ky, oy = y / g->stride;
        if (y < 0 || oy * g->stride != y || oy >= g->out_h) continue;
        /* ox falls by one as kx rises by the stride */
        int32_t kx = (ix + g->pad_left) % g->stride, ox = (ix + g->pad_left - kx) / g->stride;
        if (ox >= g->out_w) {
            kx += (ox - g->out_w + 1) * g->stride;
            ox = g->out_w - 1;
        }
        for (; kx < g->kernel_w && ox >= 0; kx += 2 * g->stride, ox -= 2) {
            const int16_t *d = dy + (oy * g->out_w + ox) * g->in_c;
            const int8_t *w = filter + (ky * g->kernel_w + kx) * CHANNELS;
            const int32_t two = kx + g->stride < g->kernel_w && ox > 0;
            const __m256i next = two ? load16(d - g->in_c, n) : none;
            multiply_add(&acc, pair(load16(d, n), next),
                         pair(widen(w), two ? widen(w + g->stride * CHANNELS) : none));
        }
    }
    return acc;
}

static inline void input_block(kg_block_writer *writer, const int16_t *dy, const int8_t *filter,
                               const kg_window *g, int32_t c, int32_t n) {
    for (int32_t iy = 0; iy < g->in_h; iy++)
        for (int32_t ix = 0; ix < g->in_w; ix++) {
            const sums acc = input_pixel(dy + c, filter, g, iy, ix, n);
            int32_t row[CHANNELS];
            _mm256_storeu_si256((__m256i *)row, first8(acc));
            _mm256_storeu_si256((__m256i *)(row + LANES), last8(acc));
            kg_block_put_row(writer, (iy * g->in_w + ix) * g->in_c + c, row, n);
        }
}

void kg_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                             const int8_t *learned, int8_t *scratch,
                             const kg_depthwise_input_grad_params *p) {
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c, n = kg_min(CHANNELS, channels);
    kg_block_writer writer;
    kg_block_begin(&writer, dx, g->in_h * g->in_w * channels, dy->exponent, p->bits);
    for (int32_t i = 0; i < channels; i += CHANNELS) {
        const int32_t c = first_channel(i, channels);
        fetch(scratch, w, learned, &p->overlay, c, n, g->kernel_h * g->kernel_w, channels);
        if (n == CHANNELS)
            input_block(&writer, dy->mantissa, scratch, g, c, CHANNELS);
        else
            input_block(&writer, dy->mantissa, scratch, g, c, n);
    }
    kg_block_end(&writer);
}
#endif
