/* Convolution and its input gradient with the DSP instructions of Cortex-M4 and M7.  Same integers
 * as src/kg_conv.c, which this file replaces.
 *
 * Filters are widened to int16 once, LANES at a time, and used for every pixel: two products
 * cost one instruction then, and only what the map holds is widened on the way. */
#include "kg_kernels.h"
#ifndef __ARM_FEATURE_SIMD32
#include "../../src/kg_conv.c"
#else

#include "kg_armv7em.h"

/// Forward ///

/* How filters lie in scratch memory: `runs` runs of contiguous weights, each filled with zeros to
 * `quads` groups of four.  A group is the bytes 0 and 2, then 1 and 3, of each filter in turn. */
typedef struct {
    int32_t runs, length, quads;
} layout;

/* Writes one filter; returns its sum. */
static int32_t widen(uint32_t *to, const int8_t *from, const layout *l) {
    int32_t sum = 0;
    for (int32_t r = 0; r < l->runs; r++) {
        const int8_t *end = from + l->length;
        for (; from < end; to += 2 * LANES) {
            const uint32_t v = load_some(from, kg_min(4, (int32_t)(end - from)));
            from += kg_min(4, (int32_t)(end - from));
            to[0] = even_bytes(v);
            to[1] = odd_bytes(v);
            sum = multiply_add(to[0], 0x10001, multiply_add(to[1], 0x10001, sum));
        }
    }
    return sum;
}

/* Puts the learned weights of some input channels in their place; returns by how much that changes
 * the sum. */
static int32_t replace(uint32_t *to, const int8_t *learned, const kg_overlay *overlay, int32_t taps,
                       int32_t in, const layout *l) {
    int32_t change = 0;
    for (int32_t t = 0; t < taps; t++)
        for (int32_t j = 0; j < overlay->count; j++) {
            const int32_t at = t * in + overlay->index[j], byte = at % l->length;
            const int32_t quad = at / l->length * l->quads + byte / 4;
            char *half = (char *)(to + quad * 2 * LANES + byte % 2) + (byte & 2);
            const int16_t new = *learned++;
            int16_t old;
            memcpy(&old, half, sizeof old);
            memcpy(half, &new, sizeof new);
            change += new - old;
        }
    return change;
}

/* Prepares the filters from o on, the last one again where fewer than LANES are left.  Returns
 * whether all are there and all scalers the fast kind. */
static int32_t fetch(tile *tile, uint32_t *to, const int8_t *w, const int8_t *learned,
                     const int32_t *b, int32_t o, const kg_conv_params *p, const layout *l) {
    const kg_overlay *overlay = &p->overlay;
    const int32_t in = p->window.in_c, taps = p->window.kernel_h * p->window.kernel_w;
    const int32_t last = p->window.out_c - 1;
    int32_t plain = o + LANES - 1 <= last;
    for (int32_t k = 0; k < LANES; k++, to += 2) {
        const int32_t filter = kg_min(o + k, last);
        const int32_t slot =
            overlay->count && overlay->axis == 0 ? kg_overlay_find(overlay, filter) : -1;
        int32_t sum = widen(to, slot < 0 ? w + filter * taps * in : learned + slot * taps * in, l);
        if (overlay->count && overlay->axis)
            sum += replace(to, learned + filter * taps * overlay->count, overlay, taps, in, l);
        tile->bias[k] = b[filter] - p->x_zero * sum;
        tile->scalers[k] = make_scaler(p->multiplier[filter], p->shift[filter], p->y_zero);
        plain &= tile->scalers[k].n > 0;
    }
    return plain;
}

/* Adds the dot products of one run with LANES filters; returns where the next run's weights are.
 *
 * In assembly, because compilers neither keep to thirteen registers here nor load four words at
 * once: 14 instructions for 16 products. */
static inline const uint32_t *dots(int32_t *acc, const int8_t *x, const uint32_t *w,
                                   int32_t quads) {
    register uint32_t w0 __asm__("r4"), w1 __asm__("r5"), w2 __asm__("r6"), w3 __asm__("r8");
    uint32_t even, odd;
    __asm__("1: ldr %[odd], [%[x]], #4\n"
            "   ldm %[w]!, {%[w0], %[w1], %[w2], %[w3]}\n"
            "   sxtb16 %[even], %[odd]\n"
            "   sxtb16 %[odd], %[odd], ror #8\n"
            "   smlad %[a0], %[even], %[w0], %[a0]\n"
            "   smlad %[a1], %[even], %[w2], %[a1]\n"
            "   smlad %[a0], %[odd], %[w1], %[a0]\n"
            "   smlad %[a1], %[odd], %[w3], %[a1]\n"
            "   ldm %[w]!, {%[w0], %[w1], %[w2], %[w3]}\n"
            "   subs %[quads], #1\n"
            "   smlad %[a2], %[even], %[w0], %[a2]\n"
            "   smlad %[a3], %[even], %[w2], %[a3]\n"
            "   smlad %[a2], %[odd], %[w1], %[a2]\n"
            "   smlad %[a3], %[odd], %[w3], %[a3]\n"
            "   bne 1b\n"
            : [x] "+r"(x), [w] "+r"(w), [quads] "+r"(quads), [a0] "+r"(acc[0]), [a1] "+r"(acc[1]),
              [a2] "+r"(acc[2]), [a3] "+r"(acc[3]), [even] "=&r"(even), [odd] "=&r"(odd),
              [w0] "=&r"(w0), [w1] "=&r"(w1), [w2] "=&r"(w2), [w3] "=&r"(w3)
            :
            : "cc", "memory");
    return w;
}

/* What the window at (iy, ix) sees, x_zero where it sees padding; rows `pitch` bytes apart. */
static void patch(int8_t *to, int32_t pitch, const int8_t *x, int32_t iy, int32_t ix,
                  const kg_conv_params *p) {
    const kg_window *g = &p->window;
    const int32_t in = g->in_c;
    const int32_t begin = kg_tap_begin(ix), end = kg_tap_end(ix, g->kernel_w, g->in_w);
    for (int32_t ky = 0; ky < g->kernel_h; ky++, to += pitch) {
        const int32_t inside = iy + ky >= 0 && iy + ky < g->in_h;
        if (!inside || end - begin < g->kernel_w)
            memset(to, p->x_zero, (size_t)(g->kernel_w * in));
        if (!inside || end <= begin) continue;
        memcpy(to + begin * in, x + ((iy + ky) * g->in_w + ix + begin) * in,
               (size_t)((end - begin) * in));
    }
}

/* Windows of several runs, `row_bytes` apart, and whatever `span` cannot do. */
static void span_of_runs(const int8_t *x, int32_t row_bytes, tile *t, int32_t runs, int32_t n) {
    for (; t->y < t->end; t->y += t->y_step, x += t->x_skip + 4 * t->count) {
        int32_t acc[LANES];
        memcpy(acc, t->bias, sizeof acc);
        const uint32_t *w = t->weights;
        const int8_t *row = x;
        for (int32_t r = runs; r; r--, row += row_bytes) w = dots(acc, row, w, t->count);
        for (int32_t k = 0; k < n; k++) t->y[k] = scaled_any(acc[k], t->scalers + k);
    }
}

/* SUMS of one run: 14 instructions for 16 products, two quads per turn.  ENTRY: where it starts,
 * so that an odd number comes out right. */
#define QUAD                                                                                       \
    "   ldr r12, [r0], #4\n"                                                                       \
    "   ldm r6!, {r8, r9, r10, r11}\n"                                                             \
    "   sxtb16 lr, r12\n"                                                                          \
    "   sxtb16 r12, r12, ror #8\n"                                                                 \
    "   smlad r2, lr, r8, r2\n"                                                                    \
    "   smlad r3, lr, r10, r3\n"                                                                   \
    "   smlad r2, r12, r9, r2\n"                                                                   \
    "   smlad r3, r12, r11, r3\n"                                                                  \
    "   ldm r6!, {r8, r9, r10, r11}\n"                                                             \
    "   smlad r4, lr, r8, r4\n"                                                                    \
    "   smlad r5, lr, r10, r5\n"                                                                   \
    "   smlad r4, r12, r9, r4\n"                                                                   \
    "   smlad r5, r12, r11, r5\n"
#define RUN(ENTRY) ENTRY "2:\n" QUAD "3:\n" QUAD "   subs r1, #2\n   bgt 2b\n"

/* Windows of one run. */
static void span(const int8_t *x, tile *t) {
    if (t->count % 2)
        KG_SPAN(x, t, RUN("   add r1, #1\n   b 3f\n"));
    else
        KG_SPAN(x, t, RUN(""));
}

void kg_conv(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned, const int32_t *b,
             int8_t *scratch, const kg_conv_params *p) {
    const kg_window *g = &p->window;
    const int32_t in = g->in_c, out = g->out_c, taps = g->kernel_h * g->kernel_w;
    /* a whole map of single pixels is one row */
    const int32_t flat = taps == 1 && g->stride == 1 && !g->pad_top && !g->pad_left;
    const int32_t in_w = flat ? g->in_h * g->in_w : g->in_w, in_h = flat ? 1 : g->in_h;
    const int32_t out_w = flat ? g->out_h * g->out_w : g->out_w, out_h = flat ? 1 : g->out_h;
    /* rows of the map are used where they lie if the filters fit into the scratch memory so */
    const int32_t words = (taps * in + 3) / 4, row = g->kernel_w * in;
    layout l = {g->kernel_h, row, (row + 3) / 4};
    const int32_t in_place = 3 * l.runs * l.quads <= 4 * words;
    if (!in_place) l = (layout){1, taps * in, words};
    const int32_t pitch = in_place ? 4 * l.quads : row; /* of a patch */
    uint32_t *filters = (uint32_t *)(void *)scratch;
    int8_t *patches = (int8_t *)(filters + l.runs * l.quads * 2 * LANES);
    tile t = {.count = l.quads,
              .weights = filters,
              .x_skip = g->stride * in - 4 * l.quads,
              .y_step = out};

    for (int32_t o = 0; o < out; o += LANES) {
        const int32_t plain = fetch(&t, filters, w, learned, b, o, p, &l);
        const int32_t n = kg_min(LANES, out - o);
        for (int32_t oy = 0; oy < out_h; oy++) {
            const int32_t iy = oy * g->stride - g->pad_top;
            /* the columns from where no read leaves the map */
            const int32_t after = (in_h - iy - g->kernel_h + 1) * in_w * in - 4 * l.quads;
            const int32_t last = kg_min(in_w - g->kernel_w, after / in) + g->pad_left;
            int32_t begin = 0, end = 0;
            if (in_place && iy >= 0 && iy + g->kernel_h <= in_h && after >= 0 && last >= 0) {
                begin = (g->pad_left + g->stride - 1) / g->stride;
                end = kg_min(out_w, last / g->stride + 1);
            }
            t.y = y + oy * out_w * out + o;
            for (int32_t ox = 0; ox < out_w;) {
                const int32_t ix = ox * g->stride - g->pad_left;
                const int32_t inside = ox >= begin && ox < end;
                const int8_t *from = inside ? x + (iy * in_w + ix) * in : patches;
                if (!inside) patch(patches, pitch, x, iy, ix, p);
                ox = inside ? end : ox + 1;
                t.end = y + (oy * out_w + ox) * out + o;
                if (l.runs == 1 && plain)
                    span(from, &t);
                else
                    span_of_runs(from, inside ? in_w * in : pitch, &t, l.runs, n);
            }
        }
    }
}

/// Input gradient ///
#define KG_ROWS 4
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
    const kg_window *g = &p->window;
    const int32_t taps = g->kernel_h * g->kernel_w, in = g->in_c, out = g->out_c;
    kg_block_writer writer;
    kg_block_begin(&writer, dx, g->in_h * g->in_w * in, dy->exponent, p->bits);
    for (int32_t i = 0; i < in; i += KG_ROWS) {
        const int32_t n = kg_min(KG_ROWS, in - i);
        for (int32_t k = 0; k < KG_ROWS; k++)
            column(scratch + k * taps * out, w, learned, &p->overlay, i + kg_min(k, n - 1), taps,
                   in, out);
        for (int32_t iy = 0; iy < g->in_h; iy++)
            for (int32_t ix = 0; ix < g->in_w; ix++) {
                int32_t acc[KG_ROWS] = {0};
                for (int32_t ky = 0; ky < g->kernel_h; ky++) {
                    const int32_t y = iy + g->pad_top - ky, oy = y / g->stride;
                    if (y < 0 || oy * g->stride != y || oy >= g->out_h) continue;
                    for (int32_t kx = 0; kx < g->kernel_w; kx++) {
                        const int32_t x = ix + g->pad_left - kx, ox = x / g->stride;
                        if (x < 0 || ox * g->stride != x || ox >= g->out_w) continue;
                        dot_columns(acc, dy->mantissa + (oy * g->out_w + ox) * out,
                                    scratch + (ky * g->kernel_w + kx) * out, taps * out, out);
                    }
                }
                for (int32_t k = 0; k < n; k++)
                    kg_block_put(&writer, (iy * g->in_w + ix) * in + i + k, acc[k]);
            }
    }
    kg_block_end(&writer);
}
#endif
