/* Depthwise convolution and its input gradient with the DSP instructions of Cortex-M.  Same
 * integers as src/kg_depthwise.c, which this file replaces.
 *
 * Four channels of a few columns of the map are put into scratch memory as pairs of int16, one
 * above the other, and the padding too.  Every column then serves all the windows that see it,
 * and no window needs to know about borders. */
#include "kg_arm_dsp.h"

/* The portable kernels do what the others cannot. */
#define kg_depthwise            portable_depthwise
#define kg_depthwise_limited    portable_depthwise_limited
#define kg_depthwise_input_grad portable_depthwise_input_grad
KG_COLD __attribute__((noinline)) static void
portable_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                   const int32_t *b, int8_t *scratch, const kg_depthwise_params *p);
KG_COLD __attribute__((noinline)) static void
portable_depthwise_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                           const int32_t *b, int8_t *scratch, const kg_depthwise_limited_params *p);
KG_COLD __attribute__((noinline)) static void
portable_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                              const int8_t *learned, int8_t *scratch,
                              const kg_depthwise_input_grad_params *p);
#include "../../src/kg_depthwise.c"
#undef kg_depthwise
#undef kg_depthwise_limited
#undef kg_depthwise_input_grad

/* Columns beside those of one window; ops/depthwise.py asks for scratch memory accordingly. */
#define MORE_COLUMNS 15

/* Is this a size of window, and a number of channels, for which there is code? */
static int32_t common(const kg_window *g) {
    return g->kernel_h == g->kernel_w && g->in_c >= LANES &&
           (g->kernel_h == 3 || g->kernel_h == 5 || g->kernel_h == 7);
}

/* Filters of LANES channels from c on.  A column, of a filter or of the map, is
 * [pairs of rows][LANES], where the last pair lacks its second row; forwards (put_singles) its
 * words are (a0, a2), (a1, a3), (a0, a2), (a1, a3), and weights are in the half that counts.
 * `flip`: turned around. */
static void fetch_pairs(uint32_t *to, int32_t *sum, const int8_t *w, const int8_t *learned,
                        const kg_overlay *overlay, int32_t c, const kg_window *g, int32_t flip) {
    const int32_t kernel = g->kernel_h, taps = kernel * kernel, column = (kernel + 1) / 2 * LANES;
    const int32_t step = flip ? -g->in_c : g->in_c;
    const int8_t *from = w + c + (flip ? (taps - 1) * g->in_c : 0);
    const uint32_t none = 0;
    for (int32_t ky = 0; ky < kernel; ky += 2, from += 2 * kernel * step) {
        const int32_t two = ky + 1 < kernel;
        put_squares(to + ky / 2 * LANES, column, from, step,
                    two ? from + kernel * step : (const int8_t *)&none, two ? step : 0, kernel);
    }
    KG_ROLLED
    for (int32_t k = 0; overlay->count && k < LANES; k++) {
        const int32_t slot = kg_overlay_find(overlay, c + k);
        KG_ROLLED
        for (int32_t t = 0; slot >= 0 && t < taps; t++) {
            const int32_t at = flip ? taps - 1 - t : t, ky = at / kernel;
            put_half(to + at % kernel * column + ky / 2 * LANES + k, ky % 2,
                     learned[t * overlay->count + slot]);
        }
    }
    KG_ROLLED
    for (int32_t kx = 1; !flip && kx <= kernel; kx++) {
        to[kx * column - 2] <<= 16;
        to[kx * column - 1] <<= 16;
    }
    for (int32_t k = 0; k < LANES; k++) sum[k] = 0;
    for (int32_t i = 0; i < kernel * column; i += LANES)
        for (int32_t k = 0; k < LANES; k++) sum[k] = multiply_add(to[i + k], 0x10001, sum[k]);
}

/* Two rows of a map: element 0 of each, and how far apart elements are; 0 where there is no row. */
typedef struct {
    const char *a, *b;
    int32_t a_step, b_step;
} row_pair;

/* All rows of the windows of one row of outputs, the first of them row y of the map. */
static void find_rows(row_pair *rows, const char *map, int32_t y, int32_t kernel, int32_t height,
                      int32_t row_bytes, int32_t step, const void *none) {
    const char *row = map + y * row_bytes;
    for (; kernel > 0; kernel -= 2, y += 2, row += 2 * row_bytes, rows++) {
        *rows = (row_pair){none, none, 0, 0};
        if (y >= 0 && y < height) {
            rows->a = row;
            rows->a_step = step;
        }
        if (y >= -1 && y + 1 < height) {
            rows->b = row + row_bytes;
            rows->b_step = step;
        }
    }
}

static void set(uint32_t *to, uint32_t value, int32_t n) {
    while (n-- > 0) *to++ = value;
}

/// Forward ///

/* The last rows of n columns. */
ALONE static void put_singles(uint32_t *to, int32_t to_step, const char *a, int32_t a_step,
                              int32_t n) {
    if (n <= 0) return;
    __asm__ volatile("1: ldr r9, [%[a]]\n"
                     "   subs %[n], #1\n"
                     "   add %[a], %[a_step]\n"
                     "   sxtb16 r8, r9\n"
                     "   sxtb16 r9, r9, ror #8\n"
                     "   strd r8, r9, [%[to]]\n"
                     "   strd r8, r9, [%[to], #8]\n"
                     "   add %[to], %[to], %[to_step], lsl #2\n"
                     "   bne 1b\n"
                     : [to] "+r"(to), [a] "+r"(a), [n] "+r"(n)
                     : [to_step] "r"(to_step), [a_step] "r"(a_step)
                     : "r8", "r9", "cc", "memory");
}

/* Columns x .. x + n of the map, zero where there is none. */
static void fill(uint32_t *to, const row_pair *rows, int32_t x, int32_t n, const kg_window *g,
                 int32_t zero) {
    const int32_t column = (g->kernel_h + 1) / 2 * LANES;
    const int32_t begin = kg_min(n, kg_tap_begin(x)),
                  end = kg_max(begin, kg_tap_end(x, n, g->in_w));
    const uint32_t zeros = low_halves((uint32_t)zero, (uint32_t)zero);
    if (begin) set(to, zeros, begin * column);
    if (end < n) set(to + end * column, zeros, (n - end) * column);
    to += begin * column;
    const int32_t first = x + begin, count = end - begin;
    for (int32_t ky = 1; ky < g->kernel_h; ky += 2, to += LANES, rows++)
        put_squares(to, column, (const int8_t *)rows->a + first * rows->a_step, rows->a_step,
                    (const int8_t *)rows->b + first * rows->b_step, rows->b_step, count);
    put_singles(to, column, rows->a + first * rows->a_step, rows->a_step, count);
}

static void span(const uint32_t *x, tile *t, int32_t kernel) {
    if (kernel == 3)
        KG_SPAN(x, t, KG_PAIRS_6);
    else if (kernel == 5)
        KG_SPAN(x, t, KG_PAIRS_15);
    else
        KG_SPAN(x, t, KG_PAIRS_28);
}

static void span_tflite(const uint32_t *x, tile *t, int32_t kernel) {
    if (kernel == 3)
        KG_SPAN_TFLITE(x, t, KG_PAIRS_6);
    else if (kernel == 5)
        KG_SPAN_TFLITE(x, t, KG_PAIRS_15);
    else
        KG_SPAN_TFLITE(x, t, KG_PAIRS_28);
}

/* shift: null, or sums are rounded as TFLite does. */
KG_INLINE void channels_of(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                           const int32_t *b, int8_t *scratch, const kg_depthwise_params *p,
                           const int8_t *shift) {
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c, kernel = g->kernel_h, stride = g->stride_w;
    const int32_t column = (kernel + 1) / 2 * LANES, most = MORE_COLUMNS / stride + 1;
    const uint32_t zeros = (uint8_t)p->x_zero * 0x01010101u;
    row_pair rows[4];
    uint32_t *weights = (uint32_t *)(void *)scratch, *map = weights + kernel * column;
    tile t = {.weights = weights,
              .x_skip = (stride - kernel) * column * (int32_t)sizeof *map,
              .y_step = channels};
    for (int32_t first = 0; first < channels; first += LANES) {
        const int32_t c = kg_min(first, channels - LANES); /* the last ones some again */
        int32_t sum[LANES];
        fetch_pairs(weights, sum, w, learned, &p->overlay, c, g, 0);
        for (int32_t k = 0; k < LANES; k++) {
            t.bias[k] = kg_add_wrapping(b[c + k], -p->x_zero * sum[k]);
            t.scalers[k] =
                shift
                    ? make_tflite_scaler(kg_tflite_factor_of(&p->scaling, shift, c + k), p->y_zero)
                    : make_scaler(kg_factor_of(&p->scaling, c + k), p->y_zero);
        }
        for (int32_t oy = 0; oy < g->out_h; oy++) {
            t.y = y + oy * g->out_w * channels + c;
            find_rows(rows, (const char *)x + c, oy * g->stride_h - g->pad_top, kernel, g->in_h,
                      g->in_w * channels, channels, &zeros);
            for (int32_t ox = 0; ox < g->out_w; ox += most) {
                const int32_t n = kg_min(most, g->out_w - ox);
                fill(map, rows, ox * stride - g->pad_left, (n - 1) * stride + kernel, g, p->x_zero);
                t.end = t.y + n * channels;
                if (shift)
                    span_tflite(map, &t, kernel);
                else
                    span(map, &t, kernel);
            }
        }
    }
}

void kg_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                  const int32_t *b, int8_t *scratch, const kg_depthwise_params *p) {
    KG_ASSERT(kg_depthwise_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->overlay));
    if (common(&p->window) && all_plain(&p->scaling))
        channels_of(y, x, w, learned, b, scratch, p, 0);
    else
        portable_depthwise(y, x, w, learned, b, scratch, p);
}

void kg_depthwise_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                          const int32_t *b, int8_t *scratch, const kg_depthwise_limited_params *p) {
    KG_ASSERT(kg_depthwise_limited_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->layer.overlay));
    const kg_depthwise_params *q = &p->layer;
    if (!p->limits.shift)
        kg_depthwise(y, x, w, learned, b, scratch, q);
    else if (common(&q->window) && all_plain(&q->scaling))
        channels_of(y, x, w, learned, b, scratch, q, p->limits.shift);
    else
        portable_depthwise_limited(y, x, w, learned, b, scratch, p);
    limit_map(y, &q->window, &p->limits);
}

/// Input gradient ///

ALONE static void put_gradient_rows(uint32_t *to, int32_t column, const row_pair *r, int32_t x,
                                    int32_t n) {
    const int32_t a_step = r->a_step, b_step = r->b_step;
    const char *a = r->a + x * a_step, *b = r->b + x * b_step;
    KG_ROLLED
    for (; n > 0; n--, to += column, a += a_step, b += b_step) {
        const uint32_t a0 = load4(a), a1 = load4(a + 4), b0 = load4(b), b1 = load4(b + 4);
        to[0] = low_halves(a0, b0);
        to[1] = high_halves(a0, b0);
        to[2] = low_halves(a1, b1);
        to[3] = high_halves(a1, b1);
    }
}

/* Where row y of a map is kept that has stride_h - 1 rows of zeros between those of dy; 0: zeros.
 */
static const char *kept_row(const int16_t *kept, int32_t y, const kg_window *g) {
    const int32_t oy = y / g->stride_h;
    if (y < 0 || oy * g->stride_h != y || oy >= g->out_h) return 0;
    return (const char *)(kept + oy % g->kernel_h * g->out_w * LANES);
}

/* find_rows for such a map. */
static void find_kept_rows(row_pair *rows, const int16_t *kept, int32_t y, const kg_window *g) {
    static const int16_t none[LANES];
    const int32_t step = LANES * (int32_t)sizeof *kept;
    KG_ROLLED
    for (int32_t ky = 0; ky < g->kernel_h; ky += 2, rows++) {
        const char *a = kept_row(kept, y + ky, g), *b = kept_row(kept, y + ky + 1, g);
        *rows = (row_pair){a ? a : (const char *)none, b ? b : (const char *)none, a ? step : 0,
                           b ? step : 0};
    }
}

/* Columns x .. x + n of a map that has rows and columns of zeros between those of dy where the
 * stride is more than one. */
static void fill_gradient(uint32_t *to, const row_pair *rows, int32_t x, int32_t n,
                          const kg_window *g) {
    const int32_t stride = g->stride_w, column = (g->kernel_h + 1) / 2 * LANES;
    const int32_t ox = kg_max(0, (x + stride - 1) / stride), begin = ox * stride - x;
    const int32_t count = kg_min(g->out_w - ox, (n - begin + stride - 1) / stride);
    if (stride > 1) {
        set(to, 0, n * column);
    } else {
        set(to, 0, begin * column);
        set(to + (begin + count) * column, 0, (n - begin - count) * column);
    }
    to += begin * column;
    for (int32_t ky = 0; ky < g->kernel_h; ky += 2, to += LANES)
        put_gradient_rows(to, stride * column, rows++, ox, count);
}

ALONE static const void *put_windows(const void *x, gradients *t, int32_t kernel) {
    if (kernel == 3)
        KG_GRADIENTS(x, t, KG_PAIRS_6);
    else if (kernel == 5)
        KG_GRADIENTS(x, t, KG_PAIRS_15);
    else
        KG_GRADIENTS(x, t, KG_PAIRS_28);
}

void kg_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                             const int8_t *learned, int8_t *scratch,
                             const kg_depthwise_input_grad_params *p) {
    KG_ASSERT(kg_depthwise_input_grad_params_ok(p));
    KG_ASSERT(kg_has_input_grad(dx, dy, w, learned, scratch, &p->overlay));
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c, kernel = g->kernel_h;
    if (!common(g) || channels % LANES) {
        portable_depthwise_input_grad(dx, dy, w, learned, scratch, p);
        return;
    }
    const int32_t column = (kernel + 1) / 2 * LANES, row = g->out_w * LANES;
    int16_t *kept = (int16_t *)(void *)scratch; /* row oy is the oy % kernel-th: dx may be dy */
    uint32_t *weights = (uint32_t *)(void *)(kept + kernel * row), *map = weights + kernel * column;
    kg_block_writer writer = kg_block_begin(dx, g->in_h * g->in_w, channels, dy->exponent, p->bits);
    gradients windows = {.weights = weights,
                         .x_skip = (1 - kernel) * column * (int32_t)sizeof *map};
    for (int32_t c = 0; c < channels; c += LANES) {
        int32_t sum[LANES], copied = 0;
        fetch_pairs(weights, sum, w, learned, &p->overlay, c, g, 1);
        for (int32_t iy = 0; iy < g->in_h; iy++) {
            row_pair rows[4];
            const int32_t end = kg_min(g->out_h, (iy + g->pad_top) / g->stride_h + 1);
            for (; copied < end; copied++)
                for (int32_t ox = 0; ox < g->out_w; ox++)
                    __builtin_memcpy(kept + copied % kernel * row + ox * LANES,
                                     dy->mantissa + (copied * g->out_w + ox) * channels + c,
                                     LANES * sizeof *kept);
            find_kept_rows(rows, kept, iy + g->pad_top - kernel + 1, g);
            for (int32_t ix = 0; ix < g->in_w; ix += MORE_COLUMNS + 1) {
                const int32_t n = kg_min(MORE_COLUMNS + 1, g->in_w - ix);
                fill_gradient(map, rows, ix + g->pad_left - kernel + 1, n - 1 + kernel, g);
                put_gradients(&writer, &windows, map, iy * g->in_w + ix, n, c, kernel, put_windows);
            }
        }
    }
    kg_block_end(&writer);
}
