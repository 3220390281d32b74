/* Depthwise convolution and its input gradient with AVX2.  Same integers as src/kg_depthwise.c,
 * which this file replaces.
 *
 * Two taps in one multiplication.  Forwards, sixteen channels at a time, and the last block starts
 * early enough to be whole: it computes some channels again. */
#include "kg_avx2.h"

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

/* Filters of channels c .. c + n as [taps][block]. */
static void fetch(int8_t *to, const int8_t *w, const int8_t *learned, const kg_overlay *overlay,
                  int32_t c, int32_t n, int32_t taps, int32_t channels, int32_t block) {
    for (int32_t t = 0; t < taps; t++) memcpy(to + t * block, w + t * channels + c, (size_t)n);
    for (int32_t k = 0; k < n; k++) {
        const int32_t slot = kg_overlay_find(overlay, c + k);
        if (slot < 0) continue;
        for (int32_t t = 0; t < taps; t++) to[t * block + k] = learned[t * overlay->count + slot];
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
    const int8_t *shift; /* null, or sums are rounded as TFLite does */
} source;

/* Sums of `pixels` neighbours, none of whose columns is padding. */
static inline void inner(sums *acc, const source *s, int32_t iy, int32_t ix, int32_t pixels,
                         int32_t n) {
    const kg_window *g = &s->p->window;
    const int32_t channels = g->in_c, step = g->stride_w * channels;
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
    const scaler scale0 = make_scaler(&p->scaling, s->shift, c, n0, p->y_zero);
    const scaler scale1 =
        n1 ? make_scaler(&p->scaling, s->shift, c + LANES, n1, p->y_zero) : scale0;
    const __m256i b0 = load32(b + c, n0), b1 = n1 ? load32(b + c + LANES, n1) : b0;
    const int32_t first = (g->pad_left + g->stride_w - 1) / g->stride_w;
    const int32_t last = (g->in_w - g->kernel_w + g->pad_left) / g->stride_w;
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * g->stride_h - g->pad_top;
        for (int32_t ox = 0, m; ox < g->out_w; ox += m) {
            const int32_t ix = ox * g->stride_w - g->pad_left;
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

KG_INLINE void convolve(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                        const int32_t *b, int8_t *scratch, const kg_depthwise_params *p,
                        const int8_t *shift) {
    const int32_t channels = p->window.in_c, n = kg_min(CHANNELS, channels);
    for (int32_t i = 0; i < channels; i += CHANNELS) {
        const int32_t c = first_channel(i, channels);
        fetch(scratch, w, learned, &p->overlay, c, n, p->window.kernel_h * p->window.kernel_w,
              channels, CHANNELS);
        const source s = {p, x + c, scratch, _mm256_set1_epi16((int16_t)p->x_zero), shift};
        if (n == CHANNELS)
            block(y, b, &s, c, CHANNELS);
        else
            block(y, b, &s, c, n);
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
    convolve(y, x, w, learned, b, scratch, &p->layer, p->limits.shift);
    kg_limit_map(y, &p->layer.window, &p->limits);
}

/// Input gradient ///

/* LANES pairs of int16. */
static inline __m256i pair8(__m128i a, __m128i b) {
    return _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
}

static inline __m128i load16(const int16_t *x) { return _mm_loadu_si128((const __m128i *)x); }

static inline __m128i widen8(const int8_t *x) {
    return _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)x));
}

/* Rows of dy, the newest kernel_h of them, row oy as the oy % kernel_h-th; LANES channels, and
 * zeros where windows reach out of the map. */
typedef struct {
    int16_t *mantissa;
    int32_t left, columns; /* column ox is number left + ox */
} ring;

static void keep_row(const ring *r, const int16_t *from, int32_t oy, int32_t n,
                     const kg_window *g) {
    int16_t *to = r->mantissa + oy % g->kernel_h * r->columns * LANES;
    memset(to, 0, (size_t)(r->columns * LANES) * sizeof *to);
    to += r->left * LANES;
    for (int32_t ox = 0; ox < kg_min(g->out_w, r->columns - r->left); ox++, to += LANES)
        memcpy(to, from + ox * g->in_c, (size_t)n * sizeof *to);
}

/* Writes `pixels` neighbours from ix on; more than one only where no column is
 * passed over. */
static inline void input_pixels(kg_block_writer *writer, const ring *r, const int8_t *filter,
                                const kg_window *g, int32_t iy, int32_t ix, int32_t c, int32_t n,
                                int32_t pixels) {
    const int32_t stride = g->stride_w, kx0 = (ix + g->pad_left) % stride;
    const int32_t ox = (ix + g->pad_left) / stride + r->left;
    __m256i acc[PIXELS] = {{0}};
    for (int32_t ky = 0; ky < g->kernel_h; ky++) {
        const int32_t y = iy + g->pad_top - ky, oy = y / g->stride_h;
        if (y < 0 || oy * g->stride_h != y || oy >= g->out_h) continue;
        const int16_t *d = r->mantissa + (oy % g->kernel_h * r->columns + ox) * LANES;
        const int8_t *w = filter + ky * g->kernel_w * LANES;
        int32_t kx = kx0;
        for (; kx + stride < g->kernel_w; kx += 2 * stride, d -= 2 * LANES) {
            const __m256i taps = pair8(widen8(w + kx * LANES), widen8(w + (kx + stride) * LANES));
            for (int32_t j = 0; j < pixels; j++) {
                const __m256i x = pair8(load16(d + j * LANES), load16(d + (j - 1) * LANES));
                acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(x, taps));
            }
        }
        if (kx >= g->kernel_w) continue;
        const __m256i tap = _mm256_cvtepi16_epi32(widen8(w + kx * LANES));
        for (int32_t j = 0; j < pixels; j++) {
            const __m256i x = _mm256_cvtepi16_epi32(load16(d + j * LANES));
            acc[j] = _mm256_add_epi32(acc[j], _mm256_mullo_epi32(x, tap));
        }
    }
    put4(writer, iy * g->in_w + ix, c, acc, pixels, n);
}

/* dx may be dy: no row of it is written before the ring has what lay there. */
static inline void input_block(kg_block_writer *writer, const kg_block16 *dy, const ring *r,
                               const int8_t *filter, const kg_window *g, int32_t c, int32_t n) {
    int32_t kept = 0;
    for (int32_t iy = 0; iy < g->in_h; iy++) {
        const int32_t end = kg_min(g->out_h, (iy + g->pad_top) / g->stride_h + 1);
        for (; kept < end; kept++)
            keep_row(r, dy->mantissa + kept * g->out_w * g->in_c + c, kept, n, g);
        int32_t ix = 0;
        for (; g->stride_w == 1 && ix + PIXELS <= g->in_w; ix += PIXELS)
            input_pixels(writer, r, filter, g, iy, ix, c, n, PIXELS);
        for (; ix < g->in_w; ix++) input_pixels(writer, r, filter, g, iy, ix, c, n, 1);
    }
}

void kg_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                             const int8_t *learned, int8_t *scratch,
                             const kg_depthwise_input_grad_params *p) {
    KG_ASSERT(kg_depthwise_input_grad_params_ok(p));
    KG_ASSERT(kg_has_input_grad(dx, dy, w, learned, scratch, &p->overlay));
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c;
    const int32_t left = kg_max(0, (g->kernel_w - 1 - g->pad_left + g->stride_w - 1) / g->stride_w);
    const ring r = {(int16_t *)(void *)scratch, left,
                    left + (g->in_w - 1 + g->pad_left) / g->stride_w + 1};
    int8_t *filter = scratch + g->kernel_h * r.columns * LANES * 2;
    kg_block_writer writer = kg_block_begin(dx, g->in_h * g->in_w, channels, dy->exponent, p->bits);
    for (int32_t c = 0; c < channels; c += LANES) {
        const int32_t n = kg_min(LANES, channels - c);
        fetch(filter, w, learned, &p->overlay, c, n, g->kernel_h * g->kernel_w, channels, LANES);
        if (n == LANES)
            input_block(&writer, dy, &r, filter, g, c, LANES);
        else
            input_block(&writer, dy, &r, filter, g, c, n);
    }
    kg_block_end(&writer);
}
