/* Convolution and its input gradient with AVX2, and VNNI where there is one.  Same integers as
 * src/kg_conv.c, which this file replaces. */
#include "kg_avx2.h"

#include <string.h>

#define PIXELS 4

static int32_t round_up(int32_t x, int32_t to) { return (x + to - 1) / to * to; }

/* Does every output see one pixel, and never padding? */
static int32_t is_map(const kg_window *g) {
    return g->kernel_h * g->kernel_w == 1 && !g->pad_top && !g->pad_left &&
           (g->out_h - 1) * g->stride_h < g->in_h && (g->out_w - 1) * g->stride_w < g->in_w;
}

/// Forward ///

/* Filters o .. o + n as [length / 4][LANES][4], zero at the end.  Returns the sum of each. */
static __m256i interleave(int8_t *to, const int8_t *w, const int8_t *learned,
                          const kg_overlay *overlay, int32_t o, int32_t n, int32_t taps,
                          int32_t in) {
    const int32_t length = taps * in, whole = length & ~3, count = overlay->count;
    for (int32_t k = 0; k < LANES; k++) {
        const int32_t filter = o + kg_min(k, n - 1);
        const int32_t slot = count && overlay->axis == 0 ? kg_overlay_find(overlay, filter) : -1;
        const int8_t *row = slot < 0 ? w + filter * length : learned + slot * length;
        int8_t *lane = to + 4 * k;
        for (int32_t i = 0; i < whole; i += 4) memcpy(lane + i * LANES, row + i, 4);
        if (whole < length) {
            memset(lane + whole * LANES, 0, 4);
            memcpy(lane + whole * LANES, row + whole, (size_t)(length - whole));
        }
        if (!count || overlay->axis == 0) continue;
        const int8_t *from = learned + filter * taps * count;
        for (int32_t t = 0; t < taps; t++)
            for (int32_t j = 0; j < count; j++) {
                const int32_t i = t * in + overlay->index[j];
                lane[(i & ~3) * LANES + (i & 3)] = *from++;
            }
    }
    __m256i sum = _mm256_setzero_si256();
    for (int32_t i = 0; i < length; i += 4) {
        const __m256i quads = _mm256_loadu_si256((const __m256i *)(to + i * LANES));
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), quads);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sum;
}

static inline __m256i broadcast4(const void *x) {
    int32_t v;
    memcpy(&v, x, sizeof v);
    return _mm256_set1_epi32(v);
}

/* The dot products of PIXELS vectors with LANES filters. */
#if defined __AVX512VNNI__ && defined __AVX512VL__
enum { OFFSET = 128 }; /* the instruction wants one factor unsigned */

static inline void dots(__m256i *acc, const int8_t *const *x, const int8_t *w, int32_t length) {
    const __m256i flip = _mm256_set1_epi8(-128);
    __m256i a[PIXELS] = {acc[0], acc[0], acc[0], acc[0]};
    for (int32_t i = 0; i < length; i += 4) {
        const __m256i filters = _mm256_loadu_si256((const __m256i *)(w + i * LANES));
        for (int32_t j = 0; j < PIXELS; j++)
            a[j] = _mm256_dpbusd_epi32(a[j], _mm256_xor_si256(broadcast4(x[j] + i), flip), filters);
    }
    memcpy(acc, a, sizeof a);
}
#else
enum { OFFSET = 0 };

static inline void dots(__m256i *acc, const int8_t *const *x, const int8_t *w, int32_t length) {
    __m256i low[PIXELS] = {{0}}, high[PIXELS] = {{0}}; /* filters 0..3 and 4..7, two sums each */
    for (int32_t i = 0; i < length; i += 4) {
        const __m256i w0 = widen(w + i * LANES), w1 = widen(w + i * LANES + 16);
        for (int32_t j = 0; j < PIXELS; j++) {
            const __m256i v = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(broadcast4(x[j] + i)));
            low[j] = _mm256_add_epi32(low[j], _mm256_madd_epi16(v, w0));
            high[j] = _mm256_add_epi32(high[j], _mm256_madd_epi16(v, w1));
        }
    }
    const __m256i first = acc[0];
    for (int32_t j = 0; j < PIXELS; j++) {
        const __m256i sums = _mm256_hadd_epi32(low[j], high[j]); /* 0 1 4 5 2 3 6 7 */
        acc[j] = _mm256_add_epi32(first, _mm256_permute4x64_epi64(sums, 0xD8));
    }
}
#endif

/* What the window at (oy, ox) sees, x_zero where it sees padding. */
static void patch(int8_t *to, const int8_t *x, int32_t oy, int32_t ox, const kg_conv_params *p) {
    const kg_window *g = &p->window;
    const int32_t iy = oy * g->stride_h - g->pad_top, ix = ox * g->stride_w - g->pad_left;
    const int32_t row = g->kernel_w * g->in_c;
    const int32_t begin = kg_tap_begin(ix), end = kg_tap_end(ix, g->kernel_w, g->in_w);
    for (int32_t ky = 0; ky < g->kernel_h; ky++, to += row) {
        const int32_t inside = iy + ky >= 0 && iy + ky < g->in_h;
        if (!inside || end - begin < g->kernel_w) memset(to, p->x_zero, (size_t)row);
        if (!inside || end <= begin) continue;
        memcpy(to + begin * g->in_c, x + ((iy + ky) * g->in_w + ix + begin) * g->in_c,
               (size_t)((end - begin) * g->in_c));
    }
}

/* shift: null, or sums are rounded as TFLite does. */
KG_INLINE void convolve(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                        const int32_t *b, int8_t *scratch, const kg_conv_params *p,
                        const int8_t *shift) {
    const kg_window *g = &p->window;
    const int32_t taps = g->kernel_h * g->kernel_w, in = g->in_c, out = g->out_c;
    const int32_t size = round_up(taps * in, 4), pixels = g->out_h * g->out_w;
    const int32_t in_place = is_map(g) && in % 4 == 0;
    const int32_t dense = g->stride_h == 1 && g->stride_w == 1;
    int8_t *patches = scratch + size * LANES;
    for (int32_t o = 0; o < out; o += LANES) {
        const int32_t n = kg_min(LANES, out - o);
        const __m256i sum = interleave(scratch, w, learned, &p->overlay, o, n, taps, in);
        const scaler s = make_scaler(&p->scaling, shift, o, n, p->y_zero);
        const __m256i bias = _mm256_sub_epi32(
            load32(b + o, n), _mm256_mullo_epi32(sum, _mm256_set1_epi32(p->x_zero + OFFSET)));
        for (int32_t i = 0; i < pixels; i += PIXELS) {
            const int32_t m = kg_min(PIXELS, pixels - i);
            const int8_t *from[PIXELS];
            for (int32_t j = 0; j < PIXELS; j++) {
                const int32_t at = i + kg_min(j, m - 1);
                const int32_t oy = dense ? 0 : at / g->out_w, ox = at - oy * g->out_w;
                if (in_place) {
                    from[j] = x + (g->stride_h * oy * g->in_w + g->stride_w * ox) * in;
                    continue;
                }
                patch(patches + j * size, x, at / g->out_w, at % g->out_w, p);
                from[j] = patches + j * size;
            }
            __m256i acc[PIXELS];
            acc[0] = bias;
            dots(acc, from, scratch, size);
            scale4(y + i * out + o, out, acc, m, n, &s);
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
    convolve(y, x, w, learned, b, scratch, &p->layer, p->limits.shift);
    kg_limit_map(y, &p->layer.window, &p->limits);
}

/// Input gradient ///

/* Weights of input channels i .. i + n as [taps][out / 2][LANES][2], zero at the end. */
static void columns(int8_t *to, const int8_t *w, const int8_t *learned, const kg_overlay *overlay,
                    int32_t i, int32_t n, int32_t taps, int32_t in, int32_t out) {
    const int32_t count = overlay->count, size = round_up(out, 2);
    memset(to, 0, (size_t)(taps * size * LANES));
    int32_t next = 0;
    for (int32_t o = 0; o < out; o++) {
        const int8_t *from = w + o * taps * in + i;
        if (count && overlay->axis == 0 && next < count && overlay->index[next] == o)
            from = learned + next++ * taps * in + i;
        for (int32_t t = 0; t < taps; t++) {
            int8_t *pair = to + (t * size + (o & ~1)) * LANES + (o & 1);
            for (int32_t k = 0; k < n; k++) pair[2 * k] = from[t * in + k];
        }
    }
    if (!count || overlay->axis == 0) return;
    for (int32_t k = 0; k < n; k++) {
        const int32_t slot = kg_overlay_find(overlay, i + k);
        if (slot < 0) continue;
        for (int32_t o = 0; o < out; o++)
            for (int32_t t = 0; t < taps; t++)
                to[(t * size + (o & ~1)) * LANES + (o & 1) + 2 * k] =
                    learned[(o * taps + t) * count + slot];
    }
}

static inline void dots16(__m256i *acc, const int16_t *const *g, const int8_t *w, int32_t length,
                          int32_t pixels) {
    for (int32_t i = 0; i + 1 < length; i += 2) {
        const __m256i filters = widen(w + i * LANES);
        for (int32_t j = 0; j < pixels; j++)
            acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(broadcast4(g[j] + i), filters));
    }
    if (length % 2) {
        const __m256i filters = widen(w + (length - 1) * LANES);
        for (int32_t j = 0; j < pixels; j++)
            acc[j] = _mm256_add_epi32(
                acc[j], _mm256_madd_epi16(_mm256_set1_epi32((uint16_t)g[j][length - 1]), filters));
    }
}

void kg_conv_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                        const int8_t *learned, int8_t *scratch,
                        const kg_conv_input_grad_params *p) {
    KG_ASSERT(kg_conv_input_grad_params_ok(p));
    KG_ASSERT(kg_has_input_grad(dx, dy, w, learned, scratch, &p->overlay));
    const kg_window *g = &p->window;
    const int32_t taps = g->kernel_h * g->kernel_w, in = g->in_c, out = g->out_c;
    const int32_t pixels = g->in_h * g->in_w, size = round_up(out, 2);
    const int32_t in_place = is_map(g) && g->stride_h == 1 && g->stride_w == 1;
    kg_block_writer writer = kg_block_begin(dx, pixels, in, dy->exponent, p->bits);
    for (int32_t c = 0; c < in; c += LANES) {
        const int32_t n = kg_min(LANES, in - c), step = in_place ? PIXELS : 1;
        columns(scratch, w, learned, &p->overlay, c, n, taps, in, out);
        for (int32_t i = 0; i < pixels; i += step) {
            __m256i acc[PIXELS] = {{0}};
            const int32_t m = kg_min(step, pixels - i);
            const int16_t *from[PIXELS];
            if (in_place) {
                for (int32_t j = 0; j < PIXELS; j++)
                    from[j] = dy->mantissa + (i + kg_min(j, m - 1)) * out;
                dots16(acc, from, scratch, out, PIXELS);
            } else {
                for (int32_t t = 0; t < taps; t++) {
                    const int32_t y = i / g->in_w + g->pad_top - t / g->kernel_w;
                    const int32_t x = i % g->in_w + g->pad_left - t % g->kernel_w;
                    const int32_t oy = y / g->stride_h, ox = x / g->stride_w;
                    if (y < 0 || oy * g->stride_h != y || oy >= g->out_h) continue;
                    if (x < 0 || ox * g->stride_w != x || ox >= g->out_w) continue;
                    from[0] = dy->mantissa + (oy * g->out_w + ox) * out;
                    dots16(acc, from, scratch + t * size * LANES, out, 1);
                }
            }
            put4(&writer, i, c, acc, m, n);
        }
    }
    kg_block_end(&writer);
}
