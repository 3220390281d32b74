/* Depthwise convolution and its input gradient with the DSP instructions of Cortex-M4 and M7.  Same
 * integers as src/kg_depthwise.c, which this file replaces.
 *
 * Four channels of a few columns of the map are put into scratch memory as pairs of int16, one
 * above the other, and the padding too.  Every column then serves all the windows that see it,
 * and no window needs to know about borders. */
#include "kg_kernels.h"
#ifndef __ARM_FEATURE_SIMD32
#include "../../src/kg_depthwise.c"
#else

/* The portable kernels do what the others cannot. */
#define kg_depthwise            portable_depthwise
#define kg_depthwise_input_grad portable_depthwise_input_grad
static void portable_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                               const int32_t *b, int8_t *scratch, const kg_depthwise_params *p);
static void portable_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                                          const int8_t *learned, int8_t *scratch,
                                          const kg_depthwise_input_grad_params *p);
#include "../../src/kg_depthwise.c"
#undef kg_depthwise
#undef kg_depthwise_input_grad

#include "kg_armv7em.h"

/* Columns beside those of one window; ops/depthwise.py asks for scratch memory accordingly. */
#define MORE_COLUMNS 7

/* Is this a size of window, and a number of channels, for which there is code? */
static int32_t common(const kg_window *g) {
    return g->kernel_h == g->kernel_w && g->in_c >= LANES &&
           (g->kernel_h == 3 || g->kernel_h == 5 || g->kernel_h == 7);
}

/* Filters of LANES channels from c on.  A column, of a filter or of the map, is
 * [pairs of rows][LANES], where the last pair lacks its second row.  `flip`: turned around. */
static void fetch_pairs(uint32_t *to, int32_t *sum, const int8_t *w, const int8_t *learned,
                        const kg_overlay *overlay, int32_t c, const kg_window *g, int32_t flip) {
    const int32_t kernel = g->kernel_h, taps = kernel * kernel;
    for (int32_t k = 0; k < LANES; k++) {
        const int32_t slot = overlay->count ? kg_overlay_find(overlay, c + k) : -1;
        const int32_t stride = slot < 0 ? g->in_c : overlay->count;
        const int8_t *from = slot < 0 ? w + c + k : learned + slot;
        uint32_t *pair = to + k;
        sum[k] = 0;
        for (int32_t kx = 0; kx < kernel; kx++)
            for (int32_t ky = 0; ky < kernel; ky += 2, pair += LANES) {
                const int32_t tap = ky * kernel + kx, next = tap + kernel;
                const int32_t a = from[(flip ? taps - 1 - tap : tap) * stride];
                const int32_t b =
                    next < taps ? from[(flip ? taps - 1 - next : next) * stride] : 0;
                *pair = low_halves((uint32_t)a, (uint32_t)b);
                sum[k] += a + b;
            }
    }
}

/// Forward ///

static inline void pair_bytes(uint32_t *to, uint32_t a, uint32_t b) {
    const uint32_t low = low_halves(a, b), high = high_halves(a, b);
    to[0] = even_bytes(low);
    to[1] = odd_bytes(low);
    to[2] = even_bytes(high);
    to[3] = odd_bytes(high);
}

/* Columns ix .. ix + n of LANES channels, `zeros` where there is no map. */
static inline void columns(uint32_t *to, const int8_t *x, int32_t iy, int32_t ix, int32_t n,
                           int32_t kernel, const kg_window *g, uint32_t zeros) {
    const int32_t row = g->in_w * g->in_c;
    const int32_t begin = kg_tap_begin(iy), end = kg_tap_end(iy, kernel, g->in_h);
    int32_t at = iy * row + ix * g->in_c;
    for (; n; n--, ix++, at += g->in_c) {
        const int32_t inside = ix >= 0 && ix < g->in_w;
        if (inside && begin == 0 && end == kernel) {
            const int8_t *from = x + at;
            for (int32_t ky = 1; ky < kernel; ky += 2, from += 2 * row, to += LANES)
                pair_bytes(to, load4(from), load4(from + row));
            pair_bytes(to, load4(from), zeros);
            to += LANES;
            continue;
        }
        for (int32_t ky = 0; ky < kernel; ky += 2, to += LANES) {
            const int32_t a = inside && ky >= begin && ky < end;
            const int32_t b = inside && ky + 1 >= begin && ky + 1 < end;
            pair_bytes(to, a ? load4(x + at + ky * row) : zeros,
                       b ? load4(x + at + (ky + 1) * row) : zeros);
        }
    }
}

/* Constants, so that loops over rows unroll. */
static void fill(uint32_t *to, const int8_t *x, int32_t iy, int32_t ix, int32_t n,
                 const kg_window *g, uint32_t zeros) {
    if (g->kernel_h == 3)
        columns(to, x, iy, ix, n, 3, g, zeros);
    else if (g->kernel_h == 5)
        columns(to, x, iy, ix, n, 5, g, zeros);
    else
        columns(to, x, iy, ix, n, 7, g, zeros);
}

static void span(const uint32_t *x, tile *t, int32_t kernel) {
    if (kernel == 3)
        KG_SPAN(x, t, KG_PAIRS(6));
    else if (kernel == 5)
        KG_SPAN(x, t, KG_PAIRS(15));
    else
        KG_SPAN(x, t, KG_PAIRS(28));
}

void kg_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                  const int32_t *b, int8_t *scratch, const kg_depthwise_params *p) {
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c, kernel = g->kernel_h, stride = g->stride;
    int32_t known = common(g);
    for (int32_t c = 0; c < channels; c++) known &= is_plain(p->shift[c]);
    if (!known) {
        portable_depthwise(y, x, w, learned, b, scratch, p);
        return;
    }
    const int32_t column = (kernel + 1) / 2 * LANES, most = MORE_COLUMNS / stride + 1;
    const uint32_t zeros = (uint8_t)p->x_zero * 0x01010101u;
    uint32_t *weights = (uint32_t *)(void *)scratch, *map = weights + kernel * column;
    tile t = {.weights = weights,
              .x_skip = (stride - kernel) * column * (int32_t)sizeof *map,
              .y_step = channels};
    for (int32_t first = 0; first < channels; first += LANES) {
        const int32_t c = kg_min(first, channels - LANES); /* the last ones some again */
        int32_t sum[LANES];
        fetch_pairs(weights, sum, w, learned, &p->overlay, c, g, 0);
        for (int32_t k = 0; k < LANES; k++) {
            t.bias[k] = b[c + k] - p->x_zero * sum[k];
            t.scalers[k] = make_scaler(p->multiplier[c + k], p->shift[c + k], p->y_zero);
        }
        for (int32_t oy = 0; oy < g->out_h; oy++) {
            t.y = y + oy * g->out_w * channels + c;
            for (int32_t ox = 0; ox < g->out_w; ox += most) {
                const int32_t n = kg_min(most, g->out_w - ox);
                fill(map, x + c, oy * stride - g->pad_top, ox * stride - g->pad_left,
                     (n - 1) * stride + kernel, g, zeros);
                t.end = t.y + n * channels;
                span(map, &t, kernel);
            }
        }
    }
}

/// Input gradient ///

/* Columns of dy, with rows and columns of zeros between its own where the stride is more than
 * one. */
static void gradient_columns(uint32_t *to, const int16_t *dy, int32_t y, int32_t x, int32_t n,
                             const kg_window *g) {
    const int32_t kernel = g->kernel_h, stride = g->stride;
    for (; n; n--, x++) {
        const int32_t ox = x / stride;
        const int32_t inside = x >= 0 && ox * stride == x && ox < g->out_w;
        for (int32_t ky = 0; ky < kernel + 1; ky += 2, to += LANES) {
            uint32_t row[2][2] = {{0, 0}, {0, 0}};
            for (int32_t j = 0; j < 2; j++) {
                const int32_t at = y + ky + j, oy = at / stride;
                if (!inside || at < 0 || oy * stride != at || oy >= g->out_h) continue;
                const int16_t *from = dy + (oy * g->out_w + ox) * g->out_c;
                row[j][0] = load4(from);
                row[j][1] = load4(from + 2);
            }
            to[0] = low_halves(row[0][0], row[1][0]);
            to[1] = high_halves(row[0][0], row[1][0]);
            to[2] = low_halves(row[0][1], row[1][1]);
            to[3] = high_halves(row[0][1], row[1][1]);
        }
    }
}

static inline void sum_pairs(int32_t *acc, const uint32_t *x, const uint32_t *w, int32_t kernel) {
    if (kernel == 3)
        KG_SUM(acc, x, w, KG_PAIRS(6));
    else if (kernel == 5)
        KG_SUM(acc, x, w, KG_PAIRS(15));
    else
        KG_SUM(acc, x, w, KG_PAIRS(28));
}

void kg_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                             const int8_t *learned, int8_t *scratch,
                             const kg_depthwise_input_grad_params *p) {
    const kg_window *g = &p->window;
    const int32_t channels = g->in_c, kernel = g->kernel_h;
    if (!common(g)) {
        portable_depthwise_input_grad(dx, dy, w, learned, scratch, p);
        return;
    }
    const int32_t column = (kernel + 1) / 2 * LANES;
    uint32_t *weights = (uint32_t *)(void *)scratch, *map = weights + kernel * column;
    kg_block_writer writer;
    kg_block_begin(&writer, dx, g->in_h * g->in_w * channels, dy->exponent, p->bits);
    for (int32_t first = 0; first < channels; first += LANES) {
        const int32_t c = kg_min(first, channels - LANES);
        int32_t sum[LANES];
        fetch_pairs(weights, sum, w, learned, &p->overlay, c, g, 1);
        for (int32_t iy = 0; iy < g->in_h; iy++)
            for (int32_t ix = 0; ix < g->in_w; ix += MORE_COLUMNS + 1) {
                const int32_t n = kg_min(MORE_COLUMNS + 1, g->in_w - ix);
                gradient_columns(map, dy->mantissa + c, iy + g->pad_top - kernel + 1,
                                 ix + g->pad_left - kernel + 1, n - 1 + kernel, g);
                for (int32_t j = 0; j < n; j++) {
                    int32_t acc[LANES] = {0};
                    sum_pairs(acc, map + j * column, weights, kernel);
                    kg_block_put_row(&writer, (iy * g->in_w + ix + j) * channels + c, acc, LANES);
                }
            }
    }
    kg_block_end(&writer);
}
#endif
