/* Convolution and its input gradient with the DSP instructions of Cortex-M.  Same integers as
 * src/kg_conv.c, which this file replaces.
 *
 * Filters are widened to int16 once, LANES at a time, and used for every pixel: two products
 * cost one instruction then, and only what the map holds is widened on the way. */
#include "kg_arm_dsp.h"

/* The portable kernel does what the other cannot. */
#define kg_conv            portable_conv
#define kg_conv_limited    portable_conv_limited
#define kg_conv_input_grad portable_conv_input_grad
KG_COLD __attribute__((noinline)) static void portable_conv(int8_t *y, const int8_t *x,
                                                            const int8_t *w, const int8_t *learned,
                                                            const int32_t *b, int8_t *scratch,
                                                            const kg_conv_params *p);
KG_COLD __attribute__((noinline)) static void
portable_conv_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                      const int32_t *b, int8_t *scratch, const kg_conv_limited_params *p);
KG_COLD __attribute__((noinline)) static void
portable_conv_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                         const int8_t *learned, int8_t *scratch,
                         const kg_conv_input_grad_params *p);
#include "../../src/kg_conv.c"
#undef kg_conv
#undef kg_conv_limited
#undef kg_conv_input_grad

/* Does every output see the pixel in its place, so that a map is one row? */
static inline int32_t is_flat(const kg_window *g) {
    return g->kernel_h * g->kernel_w == 1 && g->stride_h == 1 && g->stride_w == 1 &&
           g->out_h == g->in_h && g->out_w == g->in_w;
}

/// Forward ///

/* How filters lie in scratch memory: `runs` runs of contiguous weights, each filled with zeros to
 * `quads` groups of four.  A group is the bytes 0 and 2, then 1 and 3, of each filter in turn. */
typedef struct {
    int32_t runs, length, quads;
} layout;

/* Writes one run of a filter, a group every `step` words; returns its sum. */
ALONE static int32_t widen(uint32_t *to, int32_t step, const int8_t *from, int32_t length) {
    int32_t sum = 0, quads = length / 4;
    if (quads) {
        const uint32_t ones = 0x10001;
        uint32_t even, odd;
        __asm__ volatile("1: ldr %[odd], [%[from]], #4\n"
                         "   subs %[n], #1\n"
                         "   sxtb16 %[even], %[odd]\n"
                         "   sxtb16 %[odd], %[odd], ror #8\n"
                         "   smlad %[sum], %[even], %[ones], %[sum]\n"
                         "   strd %[even], %[odd], [%[to]]\n"
                         "   smlad %[sum], %[odd], %[ones], %[sum]\n"
                         "   add %[to], %[to], %[step], lsl #2\n"
                         "   bne 1b\n"
                         : [from] "+r"(from), [n] "+r"(quads), [even] "=&r"(even), [odd] "=&r"(odd),
                           [sum] "+r"(sum), [to] "+r"(to)
                         : [ones] "r"(ones), [step] "r"(step)
                         : "cc", "memory");
    }
    if (length % 4) {
        uint32_t v = 0;
        for (int32_t i = 0; i < length % 4; i++) v |= (uint32_t)(uint8_t)from[i] << 8 * i;
        to[0] = even_bytes(v);
        to[1] = odd_bytes(v);
        sum = multiply_add(to[0], 0x10001, multiply_add(to[1], 0x10001, sum));
    }
    return sum;
}

/* Puts the learned weights of some input channels in their place; returns by how much that changes
 * the sum. */
static int32_t replace(uint32_t *to, int32_t step, const int8_t *learned, const kg_overlay *overlay,
                       const kg_window *g, const layout *l) {
    int32_t change = 0;
    KG_ROLLED
    for (int32_t ky = 0; ky < g->kernel_h; ky++, to += l->quads * step) KG_ROLLED
    for (int32_t kx = 0; kx < g->kernel_w; kx++) KG_ROLLED
    for (int32_t j = 0; j < overlay->count; j++) {
        const int32_t at = kx * g->in_c + overlay->index[j];
        char *half = (char *)(to + at / 4 * step + at % 2) + (at & 2);
        const int16_t new = *learned++;
        int16_t old;
        __builtin_memcpy(&old, half, sizeof old);
        __builtin_memcpy(half, &new, sizeof new);
        change += new - old;
    }
    return change;
}

/* Prepares filters o .. o + n: weights in scratch memory, what is added to their sums, and how
 * those become codes. */
KG_INLINE void fetch_of(uint32_t *to, int32_t *bias, scaler *scalers, int32_t n, const int8_t *w,
                        const int8_t *learned, const int32_t *b, int32_t o, const kg_conv_params *p,
                        const layout *l, const int8_t *shift) {
    const kg_overlay *overlay = &p->overlay;
    const int32_t in = p->window.in_c, taps = p->window.kernel_h * p->window.kernel_w;
    const int32_t rows = overlay->count && overlay->axis == 0, step = 2 * n;
    KG_ROLLED
    for (; n > 0; n--, o++, to += 2) {
        const int32_t slot = rows ? kg_overlay_find(overlay, o) : -1;
        const int8_t *from = slot < 0 ? w + o * taps * in : learned + slot * taps * in;
        int32_t sum = 0;
        KG_ROLLED
        for (int32_t r = 0; r < l->runs; r++)
            sum += widen(to + r * l->quads * step, step, from + r * l->length, l->length);
        if (overlay->count && !rows)
            sum += replace(to, step, learned + o * taps * overlay->count, overlay, &p->window, l);
        *bias++ = kg_add_wrapping(b[o], -p->x_zero * sum);
        *scalers++ = shift
                         ? make_tflite_scaler(kg_tflite_factor_of(&p->scaling, shift, o), p->y_zero)
                         : make_scaler(kg_factor_of(&p->scaling, o), p->y_zero);
    }
}
ALONE static void fetch(uint32_t *to, int32_t *bias, scaler *scalers, int32_t n, const int8_t *w,
                        const int8_t *learned, const int32_t *b, int32_t o, const kg_conv_params *p,
                        const layout *l) {
    fetch_of(to, bias, scalers, n, w, learned, b, o, p, l, 0);
}
ALONE static void fetch_tflite(uint32_t *to, int32_t *bias, scaler *scalers, int32_t n,
                               const int8_t *w, const int8_t *learned, const int32_t *b, int32_t o,
                               const kg_conv_params *p, const layout *l, const int8_t *shift) {
    fetch_of(to, bias, scalers, n, w, learned, b, o, p, l, shift);
}

/* What the window at (iy, ix) sees, x_zero where it sees padding; rows `pitch` bytes apart. */
static void patch(int8_t *to, int32_t pitch, const int8_t *x, int32_t iy, int32_t ix,
                  const kg_conv_params *p) {
    const kg_window *g = &p->window;
    const int32_t in = g->in_c;
    const int32_t begin = kg_tap_begin(ix), end = kg_tap_end(ix, g->kernel_w, g->in_w);
    for (int32_t ky = 0; ky < g->kernel_h; ky++, to += pitch) {
        const int32_t inside = iy + ky >= 0 && iy + ky < g->in_h;
        if (!inside || end - begin < g->kernel_w) memset(to, p->x_zero, (size_t)(g->kernel_w * in));
        if (!inside || end <= begin) continue;
        memcpy(to + begin * in, x + ((iy + ky) * g->in_w + ix + begin) * in,
               (size_t)((end - begin) * in));
    }
}

/* 13 instructions for 16 products. */
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
#define QUAD_BYTES 52

/* The same of six filters: 18 instructions for 24 products. */
#define WIDE_QUAD                                                                                  \
    "   ldr r12, [r0], #4\n"                                                                       \
    "   ldm r7!, {r8, r9, r10, r11}\n"                                                             \
    "   sxtb16 lr, r12\n"                                                                          \
    "   sxtb16 r12, r12, ror #8\n"                                                                 \
    "   smlad r1, lr, r8, r1\n"                                                                    \
    "   smlad r2, lr, r10, r2\n"                                                                   \
    "   smlad r1, r12, r9, r1\n"                                                                   \
    "   smlad r2, r12, r11, r2\n"                                                                  \
    "   ldm r7!, {r8, r9, r10, r11}\n"                                                             \
    "   smlad r3, lr, r8, r3\n"                                                                    \
    "   smlad r4, lr, r10, r4\n"                                                                   \
    "   smlad r3, r12, r9, r3\n"                                                                   \
    "   smlad r4, r12, r11, r4\n"                                                                  \
    "   ldm r7!, {r8, r9, r10, r11}\n"                                                             \
    "   smlad r5, lr, r8, r5\n"                                                                    \
    "   smlad r6, lr, r10, r6\n"                                                                   \
    "   smlad r5, r12, r9, r5\n"                                                                   \
    "   smlad r6, r12, r11, r6\n"
#define WIDE_QUAD_BYTES 72

/* Both loops take four quads a turn and start in the middle where their number asks for it. */
#define TURN 4
static int32_t left_out(int32_t quads) { return -quads & (TURN - 1); }

/* Two sums to codes, by scalers at r7. */
#define CODES(A, B)        CODES_OF(A, B, NEAREST)
#define CODES_TFLITE(A, B) CODES_OF(A, B, TFLITE)
#define CODES_OF(A, B, SCALED)                                                                     \
    "   ldm r7!, {r8, r9, r10, r11, r12, lr}\n" SCALED(A, B) "   ssat " A ", #8, " A "\n"          \
                                                             "   ssat " B ", #8, " B "\n"

/* The pixels of a tile, each of which sees one run. */
#define PIXELS_OF(x, t, CODES)                                                                     \
    do {                                                                                           \
        register const void *r0 __asm__("r0") = (x);                                               \
        register void *r1 __asm__("r1") = (t);                                                     \
        register int32_t r2 __asm__("r2") = left_out((t)->count) * QUAD_BYTES;                     \
        __asm__ volatile(                                                                          \
            "   adr r3, 2f\n"                                                                      \
            "   add r3, r2\n"                                                                      \
            "   add r3, #1\n"                                                                      \
            "   push {r3, r7}\n"                                                                   \
            "   mov r7, r1\n"                                                                      \
            "1: ldm r7, {r1, r2, r3, r4, r5, r6}\n" /* count, bias, weights */                     \
            "   ldr pc, [sp]\n"                                                                    \
            "   .p2align 2\n"                                                                      \
            "2:\n" QUAD QUAD QUAD QUAD "   subs r1, #4\n"                                          \
            "   bgt 2b\n"                                                                          \
            "   add r7, #24\n" CODES("r2", "r3")                                                   \
                CODES("r4", "r5") "   ldm r7, {r8, r9, r10, r11}\n" /* y, end, x_skip, y_step */   \
                                  "   strb r2, [r8]\n"                                             \
                                  "   strb r3, [r8, #1]\n"                                         \
                                  "   strb r4, [r8, #2]\n"                                         \
                                  "   strb r5, [r8, #3]\n"                                         \
                                  "   add r8, r11\n"                                               \
                                  "   str r8, [r7], #-72\n"                                        \
                                  "   add r0, r10\n"                                               \
                                  "   cmp r8, r9\n"                                                \
                                  "   bne 1b\n"                                                    \
                                  "   pop {r3, r7}\n"                                              \
            : "+r"(r0), "+r"(r1), "+r"(r2)                                                         \
            :                                                                                      \
            : "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");      \
    } while (0)

ALONE static void put_pixels(const int8_t *x, tile *t) { PIXELS_OF(x, t, CODES); }
ALONE static void put_pixels_tflite(const int8_t *x, tile *t) { PIXELS_OF(x, t, CODES_TFLITE); }

/* Six filters at once, for pixels without padding. */
#define WIDE 6
typedef struct {
    int32_t bias[WIDE];
    const uint32_t *weights;
    scaler scalers[WIDE];
    int8_t *y, *end;
    int32_t x_skip, y_step;
} wide_tile;

#define WIDE_PIXELS_OF(x, t, quads, CODES)                                                         \
    do {                                                                                           \
        register const void *r0 __asm__("r0") = (x);                                               \
        register void *r1 __asm__("r1") = (t);                                                     \
        register const void *r2 __asm__("r2") = (t)->weights + 2 * WIDE * (quads);                 \
        register int32_t r3 __asm__("r3") = left_out(quads) * WIDE_QUAD_BYTES;                     \
        __asm__ volatile(                                                                          \
            "   adr r4, 2f\n"                                                                      \
            "   add r3, r4\n"                                                                      \
            "   add r3, #1\n"                                                                      \
            "   push {r1, r2, r3, r7}\n"                                                           \
            "1: ldr r8, [sp]\n"                                                                    \
            "   ldm r8, {r1, r2, r3, r4, r5, r6, r7}\n" /* bias, weights */                        \
            "   ldr pc, [sp, #8]\n"                                                                \
            "   .p2align 2\n"                                                                      \
            "2:\n" WIDE_QUAD WIDE_QUAD WIDE_QUAD WIDE_QUAD "   ldr r8, [sp, #4]\n"                 \
            "   cmp r7, r8\n"                                                                      \
            "   bne 2b\n"                                                                          \
            "   ldr r7, [sp]\n"                                                                    \
            "   add r7, #28\n" CODES("r1", "r2") CODES("r3", "r4")                                 \
                CODES("r5", "r6") "   ldm r7, {r8, r9, r10, r11}\n" /* y, end, x_skip, y_step */   \
                                  "   strb r1, [r8]\n"                                             \
                                  "   strb r2, [r8, #1]\n"                                         \
                                  "   strb r3, [r8, #2]\n"                                         \
                                  "   strb r4, [r8, #3]\n"                                         \
                                  "   strb r5, [r8, #4]\n"                                         \
                                  "   strb r6, [r8, #5]\n"                                         \
                                  "   add r8, r11\n"                                               \
                                  "   str r8, [r7]\n"                                              \
                                  "   add r0, r10\n"                                               \
                                  "   cmp r8, r9\n"                                                \
                                  "   bne 1b\n"                                                    \
                                  "   pop {r1, r2, r3, r7}\n"                                      \
            : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3)                                               \
            :                                                                                      \
            : "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");            \
    } while (0)

ALONE static void put_wide_pixels(const int8_t *x, wide_tile *t, int32_t quads) {
    WIDE_PIXELS_OF(x, t, quads, CODES);
}
ALONE static void put_wide_pixels_tflite(const int8_t *x, wide_tile *t, int32_t quads) {
    WIDE_PIXELS_OF(x, t, quads, CODES_TFLITE);
}

/* SUMS of several runs; the tile's address is on the stack. */
#define RUNS                                                                                       \
    "   ldr r7, [sp]\n"                                                                            \
    "   ldr r7, [r7, #88]\n" /* runs */                                                            \
    "2:\n" QUAD "   subs r1, #1\n"                                                                 \
    "   bne 2b\n"                                                                                  \
    "   subs r7, #1\n"                                                                             \
    "   beq 3f\n"                                                                                  \
    "   ldr r12, [sp]\n"                                                                           \
    "   ldr r1, [r12]\n"       /* count */                                                         \
    "   ldr r12, [r12, #92]\n" /* run_skip */                                                      \
    "   add r0, r12\n"                                                                             \
    "   b 2b\n"                                                                                    \
    "3:\n"

/* SUMS of three runs of nine: the usual first layer. */
#define NINE                                                                                       \
    QUAD QUAD "   ldm r6!, {r8, r9, r10, r11}\n"                                                   \
              "   ldrsb r12, [r0], #4\n"                                                           \
              "   smlabb r2, r12, r8, r2\n"                                                        \
              "   smlabb r3, r12, r10, r3\n"                                                       \
              "   ldm r6!, {r8, r9, r10, r11}\n"                                                   \
              "   smlabb r4, r12, r8, r4\n"                                                        \
              "   smlabb r5, r12, r10, r5\n"
#define NINES                                                                                      \
    "   ldr r7, [sp]\n"                                                                            \
    "   ldr r7, [r7, #92]\n" /* run_skip */                                                        \
        NINE "   add r0, r7\n" NINE "   add r0, r7\n" NINE

ALONE static void span(const int8_t *x, tile *t, int32_t length) {
    if (t->runs == 3 && length == 9)
        KG_SPAN(x, t, NINES);
    else if (t->runs > 1)
        KG_SPAN(x, t, RUNS);
    else
        put_pixels(x, t);
}
ALONE static void span_tflite(const int8_t *x, tile *t, int32_t length) {
    if (t->runs == 3 && length == 9)
        KG_SPAN_TFLITE(x, t, NINES);
    else if (t->runs > 1)
        KG_SPAN_TFLITE(x, t, RUNS);
    else
        put_pixels_tflite(x, t);
}

/* As many tiles of six filters as are good; returns where those of four go on.  For single pixels
 * in whole words, without padding. */
KG_INLINE int32_t wide_of(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                          const int32_t *b, uint32_t *weights, const kg_conv_params *p,
                          const layout *l, const int8_t *shift) {
    const kg_window *g = &p->window;
    const int32_t in = g->in_c, out = g->out_c, flat = is_flat(g);
    const int32_t out_w = flat ? g->out_h * g->out_w : g->out_w, out_h = flat ? 1 : g->out_h;
    wide_tile t = {.weights = weights, .x_skip = (g->stride_w - 1) * in, .y_step = out};
    int32_t o = 0;
    for (; out - o == WIDE || out - o >= WIDE + LANES; o += WIDE) {
        if (shift)
            fetch_tflite(weights, t.bias, t.scalers, WIDE, w, learned, b, o, p, l, shift);
        else
            fetch(weights, t.bias, t.scalers, WIDE, w, learned, b, o, p, l);
        for (int32_t oy = 0; oy < out_h; oy++) {
            t.y = y + oy * out_w * out + o;
            t.end = t.y + out_w * out;
            const int8_t *from = x + oy * g->stride_h * g->in_w * in;
            if (shift)
                put_wide_pixels_tflite(from, &t, l->quads);
            else
                put_wide_pixels(from, &t, l->quads);
        }
    }
    return o;
}
ALONE static int32_t put_wide(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                              const int32_t *b, uint32_t *weights, const kg_conv_params *p,
                              const layout *l) {
    return wide_of(y, x, w, learned, b, weights, p, l, 0);
}

/* Tiles of LANES filters, from filter `first` on, for any window.  shift: null, or sums are rounded
 * as TFLite does. */
KG_INLINE void tiles_of(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                        const int32_t *b, uint32_t *weights, const kg_conv_params *p,
                        const layout *l, int32_t first, const int8_t *shift) {
    const kg_window *g = &p->window;
    const int32_t in = g->in_c, out = g->out_c;
    /* a whole map of single pixels, none of which needs a patch, is one row */
    const int32_t flat = is_flat(g) && in % 4 == 0;
    const int32_t in_w = flat ? g->in_h * g->in_w : g->in_w, in_h = flat ? 1 : g->in_h;
    const int32_t out_w = flat ? g->out_h * g->out_w : g->out_w, out_h = flat ? 1 : g->out_h;
    const int32_t run = 4 * l->quads, row = in_w * in, step = g->stride_w * in;
    int8_t *patches = (int8_t *)(weights + l->runs * l->quads * 2 * LANES);
    tile t = {.count = l->quads, .weights = weights, .y_step = out, .runs = l->runs};
    for (; first < out; first += LANES) {
        const int32_t o = kg_min(first, out - LANES); /* the last ones some again */
        if (shift)
            fetch_tflite(weights, t.bias, t.scalers, LANES, w, learned, b, o, p, l, shift);
        else
            fetch(weights, t.bias, t.scalers, LANES, w, learned, b, o, p, l);
        for (int32_t oy = 0; oy < out_h; oy++) {
            const int32_t iy = oy * g->stride_h - g->pad_top;
            /* columns ix = 0 .. last: no read leaves the map, though runs are longer than they
             * need be */
            const int32_t spare = (in_h - iy - l->runs + 1) * row - run;
            int32_t begin = 0, end = 0;
            if (iy >= 0 && iy + l->runs <= in_h && spare >= 0) {
                const int32_t last = kg_min(in_w - g->kernel_w, spare / in);
                begin = (g->pad_left + g->stride_w - 1) / g->stride_w;
                end = kg_min(out_w, (last + g->pad_left) / g->stride_w + 1);
            }
            t.y = y + oy * out_w * out + o;
            for (int32_t ox = 0; ox < out_w;) {
                const int32_t ix = ox * g->stride_w - g->pad_left;
                const int32_t inside = ox >= begin && ox < end;
                if (!inside) patch(patches, run, x, iy, ix, p);
                ox = inside ? end : ox + 1;
                t.end = y + (oy * out_w + ox) * out + o;
                t.run_skip = inside ? row - run : 0;
                t.x_skip = step - run - (l->runs - 1) * (run + t.run_skip);
                const int8_t *from = inside ? x + (iy * in_w + ix) * in : patches;
                if (shift)
                    span_tflite(from, &t, l->length);
                else
                    span(from, &t, l->length);
            }
        }
    }
}
ALONE static void put_tiles(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                            const int32_t *b, uint32_t *weights, const kg_conv_params *p,
                            const layout *l, int32_t first) {
    tiles_of(y, x, w, learned, b, weights, p, l, first, 0);
}

/* Is there code for this; and is the scratch memory, meant for contiguous filters, enough for runs
 * of whole quads? */
static inline int32_t is_known(const kg_conv_params *p, const layout *l) {
    const kg_window *g = &p->window;
    return g->out_c >= LANES && all_plain(&p->scaling) &&
           3 * l->runs * l->quads <= 4 * ((g->kernel_h * g->kernel_w * g->in_c + 3) / 4);
}

/* Does every output see one whole pixel, in words? */
static inline int32_t is_wide(const kg_window *g) {
    return g->kernel_h * g->kernel_w == 1 && g->in_c % 4 == 0 && !g->pad_top && !g->pad_left &&
           (g->out_h - 1) * g->stride_h < g->in_h && (g->out_w - 1) * g->stride_w < g->in_w;
}

void kg_conv(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned, const int32_t *b,
             int8_t *scratch, const kg_conv_params *p) {
    KG_ASSERT(kg_conv_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->overlay));
    const kg_window *g = &p->window;
    const int32_t out = g->out_c, row = g->kernel_w * g->in_c;
    const layout l = {g->kernel_h, row, (row + 3) / 4};
    if (!is_known(p, &l)) {
        portable_conv(y, x, w, learned, b, scratch, p);
        return;
    }
    uint32_t *weights = (uint32_t *)(void *)scratch;
    int32_t first = 0;
    if (is_wide(g)) first = put_wide(y, x, w, learned, b, weights, p, &l);
    if (first < out) put_tiles(y, x, w, learned, b, weights, p, &l, first);
}

static void put_tflite(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                       const int32_t *b, uint32_t *weights, const kg_conv_params *p,
                       const layout *l, const int8_t *shift) {
    int32_t first = 0;
    if (is_wide(&p->window)) first = wide_of(y, x, w, learned, b, weights, p, l, shift);
    if (first < p->window.out_c) tiles_of(y, x, w, learned, b, weights, p, l, first, shift);
}

void kg_conv_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                     const int32_t *b, int8_t *scratch, const kg_conv_limited_params *p) {
    KG_ASSERT(kg_conv_limited_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->layer.overlay));
    const kg_conv_params *q = &p->layer;
    const int32_t row = q->window.kernel_w * q->window.in_c;
    const layout l = {q->window.kernel_h, row, (row + 3) / 4};
    if (!p->limits.shift)
        kg_conv(y, x, w, learned, b, scratch, q);
    else if (is_known(q, &l))
        put_tflite(y, x, w, learned, b, (uint32_t *)(void *)scratch, q, &l, p->limits.shift);
    else
        portable_conv_limited(y, x, w, learned, b, scratch, p);
    limit_map(y, &q->window, &p->limits);
}

/// Input gradient ///

/* Weights of input channels i .. i + LANES as [taps][pairs of outputs][LANES]. */
ALONE static void fetch_columns(uint32_t *to, const int8_t *w, const int8_t *learned,
                                const kg_overlay *overlay, int32_t i, int32_t taps, int32_t in,
                                int32_t out) {
    const int32_t count = overlay->count, row = taps * in, size = out / 2 * LANES;
    KG_ROLLED
    for (int32_t t = 0; t < taps; t++) {
        const int8_t *from = w + t * in + i;
        put_squares(to + t * size, LANES, from, 2 * row, from + row, 2 * row, out / 2);
    }
    KG_ROLLED
    for (int32_t j = 0; overlay->axis == 0 && j < count; j++) {
        const int32_t o = overlay->index[j];
        KG_ROLLED
        for (int32_t t = 0; t < taps; t++) KG_ROLLED
        for (int32_t k = 0; k < LANES; k++)
            put_half(to + t * size + o / 2 * LANES + k, o % 2,
                     learned[(j * taps + t) * in + i + k]);
    }
    KG_ROLLED
    for (int32_t k = 0; overlay->axis && k < LANES; k++) {
        const int32_t slot = kg_overlay_find(overlay, i + k);
        if (slot < 0) continue;
        KG_ROLLED
        for (int32_t t = 0; t < taps; t++)
            for (int32_t o = 0; o < out; o++)
                put_half(to + t * size + o / 2 * LANES + k, o % 2,
                         learned[(o * taps + t) * count + slot]);
    }
}

/* Dot products of the gradient of one pixel with LANES columns: 13 instructions for 16 products. */
static inline void multiply_columns(int32_t *acc, const int16_t *dy, const uint32_t *w,
                                    int32_t out) {
    if (out >= 4)
        KG_SUM(acc, dy, w, out / 4,
               "2: ldrd r7, r8, [r0], #8\n"
               "   ldm r6!, {r9, r10, r11, r12}\n"
               "   smlad r2, r7, r9, r2\n"
               "   smlad r3, r7, r10, r3\n"
               "   smlad r4, r7, r11, r4\n"
               "   smlad r5, r7, r12, r5\n"
               "   ldm r6!, {r9, r10, r11, r12}\n"
               "   smlad r2, r8, r9, r2\n"
               "   smlad r3, r8, r10, r3\n"
               "   smlad r4, r8, r11, r4\n"
               "   smlad r5, r8, r12, r5\n"
               "   subs r1, #1\n"
               "   bne 2b\n");
    if (out % 4 == 0) return;
    const uint32_t last = load4(dy + out - 2);
    for (int32_t k = 0; k < LANES; k++)
        acc[k] = multiply_add(last, w[(out / 2 - 1) * LANES + k], acc[k]);
}

/* The same for pixels that see one each, and outputs that come by fours. */
#define PRODUCTS                                                                                   \
    "   ldrd r8, lr, [r0], #8\n"                                                                   \
    "   ldm r6!, {r9, r10, r11, r12}\n"                                                            \
    "   smlad r2, r8, r9, r2\n"                                                                    \
    "   smlad r3, r8, r10, r3\n"                                                                   \
    "   smlad r4, r8, r11, r4\n"                                                                   \
    "   smlad r5, r8, r12, r5\n"                                                                   \
    "   ldm r6!, {r9, r10, r11, r12}\n"                                                            \
    "   smlad r2, lr, r9, r2\n"                                                                    \
    "   smlad r3, lr, r10, r3\n"                                                                   \
    "   smlad r4, lr, r11, r4\n"                                                                   \
    "   smlad r5, lr, r12, r5\n"

ALONE static const void *put_products(const void *dy, gradients *t, int32_t kernel) {
    (void)kernel;
    if (t->count % TURN == 0)
        KG_GRADIENTS(dy, t,
                     "2:\n" PRODUCTS PRODUCTS PRODUCTS PRODUCTS "   subs r1, #4\n"
                     "   bne 2b\n");
    else
        KG_GRADIENTS(dy, t,
                     "2:\n" PRODUCTS "   subs r1, #1\n"
                     "   bne 2b\n");
}

void kg_conv_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                        const int8_t *learned, int8_t *scratch,
                        const kg_conv_input_grad_params *p) {
    KG_ASSERT(kg_conv_input_grad_params_ok(p));
    KG_ASSERT(kg_has_input_grad(dx, dy, w, learned, scratch, &p->overlay));
    const kg_window *g = &p->window;
    const int32_t taps = g->kernel_h * g->kernel_w, in = g->in_c, out = g->out_c;
    if (in < LANES || out % 2) {
        portable_conv_input_grad(dx, dy, w, learned, scratch, p);
        return;
    }
    const int32_t flat = is_flat(g);
    uint32_t *columns = (uint32_t *)(void *)scratch;
    kg_block_writer writer = kg_block_begin(dx, g->in_h * g->in_w, in, dy->exponent, p->bits);
    for (int32_t first = 0; first < in; first += LANES) {
        const int32_t i = kg_min(first, in - LANES); /* the last ones some again */
        fetch_columns(columns, w, learned, &p->overlay, i, taps, in, out);
        if (flat && out % 4 == 0) {
            gradients t = {.count = out / 4, .weights = columns};
            put_gradients(&writer, &t, dy->mantissa, 0, g->in_h * g->in_w, i, 1, put_products);
            continue;
        }
        if (flat) {
            for (int32_t at = 0; at < g->in_h * g->in_w; at++) {
                int32_t acc[LANES] = {0};
                multiply_columns(acc, dy->mantissa + at * out, columns, out);
                put_lanes(&writer, at, i, acc);
            }
            continue;
        }
        for (int32_t iy = 0; iy < g->in_h; iy++)
            for (int32_t ix = 0; ix < g->in_w; ix++) {
                int32_t acc[LANES] = {0};
                for (int32_t ky = 0; ky < g->kernel_h; ky++) {
                    const int32_t y = iy + g->pad_top - ky, oy = y / g->stride_h;
                    if (y < 0 || oy * g->stride_h != y || oy >= g->out_h) continue;
                    for (int32_t kx = 0; kx < g->kernel_w; kx++) {
                        const int32_t x = ix + g->pad_left - kx, ox = x / g->stride_w;
                        if (x < 0 || ox * g->stride_w != x || ox >= g->out_w) continue;
                        multiply_columns(acc, dy->mantissa + (oy * g->out_w + ox) * out,
                                         columns + (ky * g->kernel_w + kx) * out / 2 * LANES, out);
                    }
                }
                put_lanes(&writer, iy * g->in_w + ix, i, acc);
            }
    }
    kg_block_end(&writer);
}
