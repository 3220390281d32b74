/* Gradients of the weights of convolutions with the DSP instructions of Cortex-M.  Same integers
 * as src/kg_conv_weight.c, which this file replaces. */
#include "kg_arm_dsp.h"

/* Only the sums of a filter are computed otherwise. */
static void filter_sums(int32_t *row, int32_t o, const int8_t *x, const kg_block16 *dy,
                        const kg_window *g, int32_t x_zero);
#define KG_CONV_ROW filter_sums
#include "../../src/kg_conv_weight.c"

#define PIXELS 32

/* Pixels at which a gradient is not zero; an even number, the last one perhaps with no weight. */
typedef struct {
    int32_t count, sum;
    const int8_t *x[PIXELS];
    int16_t dy[PIXELS];
} batch;

/* row[0 .. LANES] += sums over the batch of dy * x, from channel c on. */
ALONE static void add_products(int32_t *row, const batch *b, int32_t c) {
    int32_t s0 = row[0], s1 = row[1], s2 = row[2], s3 = row[3];
    const int8_t *const *end = b->x + b->count;
    const int16_t *dy = b->dy;
    KG_ROLLED
    for (const int8_t *const *x = b->x; x < end; x += 2, dy += 2) {
        const uint32_t d = load4(dy), u = load4(x[0] + c), v = load4(x[1] + c);
        const uint32_t low = low_halves(u, v), high = high_halves(u, v);
        s0 = multiply_add(even_bytes(low), d, s0);
        s1 = multiply_add(odd_bytes(low), d, s1);
        s2 = multiply_add(even_bytes(high), d, s2);
        s3 = multiply_add(odd_bytes(high), d, s3);
    }
    row[0] = s0;
    row[1] = s1;
    row[2] = s2;
    row[3] = s3;
}

/* Adds a batch to the sums of one tap, and starts another.  Before the zero point is taken off, a
 * sum may wrap around. */
static void finish(int32_t *row, batch *b, int32_t in, int32_t x_zero) {
    if (b->count % 2) {
        b->x[b->count] = b->x[0];
        b->dy[b->count++] = 0;
    }
    const int32_t whole = in & ~(LANES - 1);
    for (int32_t c = 0; c < whole; c += LANES) add_products(row + c, b, c);
    for (int32_t c = whole; c < in; c++) KG_ROLLED
    for (int32_t i = 0; i < b->count; i++) row[c] = kg_add_wrapping(row[c], b->dy[i] * b->x[i][c]);
    const int32_t zero = x_zero * b->sum;
    KG_ROLLED
    for (int32_t c = 0; c < in; c++) row[c] = kg_add_wrapping(row[c], -zero);
    b->count = b->sum = 0;
}

/* Sums for filter o and one tap, (ky, kx): over pixels of (x - x_zero) * dy. */
static void tap_sums(int32_t *row, int32_t o, int32_t ky, int32_t kx, const int8_t *x,
                     const kg_block16 *dy, const kg_window *g, int32_t x_zero) {
    const int32_t down = g->stride_h, across = g->stride_w;
    batch b;
    b.count = b.sum = 0;
    memset(row, 0, (size_t)g->in_c * sizeof *row);
    KG_ROLLED
    for (int32_t oy = 0; oy < g->out_h; oy++) {
        const int32_t iy = oy * down - g->pad_top + ky;
        if (iy < 0 || iy >= g->in_h) continue;
        const int16_t *d = dy->mantissa + oy * g->out_w * g->out_c + o;
        KG_ROLLED
        for (int32_t ox = 0; ox < g->out_w; ox++, d += g->out_c) {
            const int32_t ix = ox * across - g->pad_left + kx;
            if (!*d || ix < 0 || ix >= g->in_w) continue;
            b.x[b.count] = x + (iy * g->in_w + ix) * g->in_c;
            b.dy[b.count++] = *d;
            b.sum += *d;
            if (b.count == PIXELS) finish(row, &b, g->in_c, x_zero);
        }
    }
    finish(row, &b, g->in_c, x_zero);
}

static void filter_sums(int32_t *row, int32_t o, const int8_t *x, const kg_block16 *dy,
                        const kg_window *g, int32_t x_zero) {
    if (g->in_c < LANES) {
        conv_row(row, o, x, dy, g, x_zero);
        return;
    }
    for (int32_t ky = 0; ky < g->kernel_h; ky++)
        for (int32_t kx = 0; kx < g->kernel_w; kx++, row += g->in_c)
            tap_sums(row, o, ky, kx, x, dy, g, x_zero);
}
