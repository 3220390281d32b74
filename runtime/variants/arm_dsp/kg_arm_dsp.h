/* What the kernels for Cortex-M processors with DSP instructions share: pairs of int16 in a
 * register, and requantising by the high word of a product. */
#ifndef KG_ARM_DSP_H
#define KG_ARM_DSP_H

/* Without these, another program would be compiled than the one that was asked for. */
#if !defined __ARM_FEATURE_DSP || !defined __ARM_FEATURE_SIMD32
#error "kernels of variants/arm_dsp need the DSP extension: name a processor that has it, as in \
-mcpu=cortex-m7 (clang: cortex-m33 needs +dsp), or compile their namesakes in src/"
#elif !defined __thumb2__
#error "kernels of variants/arm_dsp are Thumb-2 code: compile with -mthumb"
#elif !defined __ARMEL__
#error "kernels of variants/arm_dsp are for little-endian memory: compile without -mbig-endian"
#elif !defined __ARM_FEATURE_UNALIGNED
#error "kernels of variants/arm_dsp read words at any address: compile without \
-mno-unaligned-access"
#endif

#include <arm_acle.h>
#include <string.h>

#include "kg_kernels.h"

/* Inlined into a large function, a loop that needs every register gets few of them. */
#define ALONE __attribute__((noinline, unused))

/* Four bytes from anywhere: one LDR, which these processors allow at any address. */
static inline uint32_t load4(const void *from) {
    uint32_t v;
    __builtin_memcpy(&v, from, sizeof v); /* a call, were it memcpy, in a freestanding program */
    return v;
}

/* Bytes 0 and 2, or 1 and 3, as two int16. */
static inline uint32_t even_bytes(uint32_t v) { return (uint32_t)__sxtb16((int8x4_t)v); }
static inline uint32_t odd_bytes(uint32_t v) {
    return (uint32_t)__sxtb16((int8x4_t)(v >> 8 | v << 24));
}

/* x clamped to int8.  What GCC makes of __ssat converts a sign. */
#if defined __GNUC__ && !defined __clang__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"
#endif
static inline int32_t saturated(int32_t x) { return __ssat(x, 8); }
#if defined __GNUC__ && !defined __clang__
#pragma GCC diagnostic pop
#endif

static inline void store4(void *to, uint32_t v) { __builtin_memcpy(to, &v, sizeof v); }

/* A code in all four bytes. */
static inline uint32_t four(int32_t code) { return (uint8_t)code * 0x01010101u; }

/* For each of four bytes: y where a >= b, else n. */
static inline uint32_t where_at_least(uint32_t a, uint32_t b, uint32_t y, uint32_t n) {
    __ssub8((int8x4_t)a, (int8x4_t)b);
    return (uint32_t)__sel((uint8x4_t)y, (uint8x4_t)n);
}

/* kg_limit_map, four codes at a time. */
ALONE static void limit_map(int8_t *y, const kg_window *g, const kg_limits *l) {
    const int32_t n = g->out_h * g->out_w * g->out_c, whole = n & ~3;
    const uint32_t low = four(l->lowest), high = four(l->highest);
    if (l->lowest == INT8_MIN && l->highest == INT8_MAX) return;
    KG_ROLLED
    for (int32_t i = 0; i < whole; i += 4) {
        const uint32_t v = load4(y + i), raised = where_at_least(v, low, v, low);
        store4(y + i, where_at_least(high, raised, raised, high));
    }
    kg_limit(y + whole, n - whole, l);
}

/* The low halves of a and b in one word, and the high halves. */
static inline uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xFFFF) | b << 16; }
static inline uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xFFFF0000); }

/* Columns of two rows of four bytes: (a0, b0), (a1, b1) and so on; n such squares. */
ALONE static void put_squares(uint32_t *to, int32_t to_step, const int8_t *a, int32_t a_step,
                              const int8_t *b, int32_t b_step, int32_t n) {
    if (n <= 0) return;
    __asm__ volatile("1: ldr r8, [%[a]]\n"
                     "   ldr r10, [%[b]]\n"
                     "   subs %[n], #1\n"
                     "   add %[a], %[a_step]\n"
                     "   pkhbt r9, r8, r10, lsl #16\n"
                     "   pkhtb r11, r10, r8, asr #16\n"
                     "   sxtb16 r8, r9\n"
                     "   sxtb16 r9, r9, ror #8\n"
                     "   sxtb16 r10, r11\n"
                     "   sxtb16 r11, r11, ror #8\n"
                     "   add %[b], %[b_step]\n"
                     "   stm %[to], {r8, r9, r10, r11}\n"
                     "   add %[to], %[to], %[to_step], lsl #2\n"
                     "   bne 1b\n"
                     : [to] "+r"(to), [a] "+r"(a), [b] "+r"(b), [n] "+r"(n)
                     : [to_step] "r"(to_step), [a_step] "r"(a_step), [b_step] "r"(b_step)
                     : "r8", "r9", "r10", "r11", "cc", "memory");
}

/* Replaces the low or high half of a word. */
static inline void put_half(uint32_t *to, int32_t high, int16_t value) {
    __builtin_memcpy((char *)to + 2 * high, &value, sizeof value);
}

/* sum + a * b, which compilers may rather write as products of 64 bits. */
static inline int64_t multiply_add_wide(int64_t sum, int32_t a, int32_t b) {
    __asm__("smlal %Q0, %R0, %1, %2" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}

/* The high word of a * b, rounded half up. */
static inline int32_t high_rounded(int32_t a, int32_t b) {
    int32_t v;
    __asm__("smmulr %0, %1, %2" : "=r"(v) : "r"(a), "r"(b));
    return v;
}

/* kg_magnitude in two instructions. */
static inline uint32_t magnitude(int32_t x) {
    uint32_t v;
    __asm__("eor %0, %1, %1, asr #31\n   sub %0, %0, %1, asr #31" : "=&r"(v) : "r"(x));
    return v;
}

static inline int32_t multiply_add(uint32_t a, uint32_t b, int32_t sum) {
    return __smlad((int16x2_t)a, (int16x2_t)b, sum);
}

/// Requantising ///

/* What turns the sums of one output channel into codes.  With n = shift - 32, a code is
 * (high word of sum * multiplier + offset) >> n: rounding and zero point can be added before the
 * shift, because they have no bits below 2^32.  The processors have an instruction for the term
 * in brackets. */
typedef struct {
    int32_t multiplier, offset, n;
} scaler;

static inline scaler make_scaler(kg_factor f, int32_t y_zero) {
    const int32_t n = f.shift - 32;
    return (scaler){f.multiplier, y_zero * (1 << n) + (1 << (n - 1)), n};
}

/* The same as TFLite rounds.  The high word of twice the sum is rounded half up, less one where it
 * is negative, so that the second rounding, of n = shift - 31 bits, is half away from zero.  Twice
 * the sum saturates: from 2^30 on a code is at its limit either way, as n is at most 21. */
static inline scaler make_tflite_scaler(kg_factor f, int32_t y_zero) {
    const int32_t n = f.shift - 31;
    return (scaler){f.multiplier, y_zero * (1 << n) + (1 << (n - 1)), n};
}

/* Is that possible for all channels? */
static inline int32_t all_plain(const kg_scaling *s) { return s->lowest >= 33 && s->highest <= 52; }

/// Loops over pixels ///

#define LANES 4 /* output channels at once */

/* What a loop over neighbouring pixels needs; the assembly knows this layout. */
typedef struct {
    int32_t count, bias[LANES]; /* count: for the loop over weights */
    const uint32_t *weights;    /* pairs of int16, interleaved */
    scaler scalers[LANES];
    int8_t *y, *end;        /* the next pixel, and where to stop */
    int32_t x_skip, y_step; /* from behind what one pixel reads to the next; between pixels */
    int32_t runs, run_skip; /* of contiguous bytes of x; from one to the next */
} tile;

/* Two sums scaled, by scalers in r8 .. lr. */
#define NEAREST(A, B)                                                                              \
    "   smmla " A ", " A ", r8, r9\n"                                                              \
    "   smmla " B ", " B ", r11, r12\n"                                                            \
    "   asr " A ", r10\n"                                                                          \
    "   asr " B ", lr\n"
#define TFLITE(A, B)                                                                               \
    "   qadd " A ", " A ", " A "\n"                                                                \
    "   qadd " B ", " B ", " B "\n"                                                                \
    "   smmulr " A ", " A ", r8\n"                                                                 \
    "   smmulr " B ", " B ", r11\n"                                                                \
    "   add " A ", " A ", " A ", asr #31\n"                                                        \
    "   add " B ", " B ", " B ", asr #31\n"                                                        \
    "   add " A ", r9\n"                                                                           \
    "   add " B ", r12\n"                                                                          \
    "   asr " A ", r10\n"                                                                          \
    "   asr " B ", lr\n"

/* The whole loop over pixels, because around sums that take all registers compilers move more
 * than they compute.  SUMS adds products to r2 .. r5 and uses
 *
 *     r0 x    r1 count    r6 weights    r7 .. r12, lr anything
 *
 * r7 may be the compiler's frame pointer and cannot be declared as lost, so it is restored. */
#define KG_SPAN_OF(x, tile, SUMS, SCALED)                                                          \
    do {                                                                                           \
        register const void *r0 __asm__("r0") = (x);                                               \
        register void *r1 __asm__("r1") = (tile);                                                  \
        __asm__ volatile(                                                                          \
            "1: push {r1, r7}\n"                                                                   \
            "   ldm r1, {r1, r2, r3, r4, r5, r6}\n" /* count, bias, weights */                     \
            SUMS "   pop {r1, r7}\n"                                                               \
            "   add r6, r1, #24\n"                                                                 \
            "   ldm r6!, {r8, r9, r10, r11, r12, lr}\n" /* two scalers */                          \
            SCALED("r2",                                                                           \
                   "r3") "   ssat r2, #8, r2\n"                                                    \
                         "   ssat r3, #8, r3\n"                                                    \
                         "   ldm r6!, {r8, r9, r10, r11, r12, lr}\n" SCALED(                       \
                             "r4",                                                                 \
                             "r5") "   ssat r4, #8, r4\n"                                          \
                                   "   ssat r5, #8, r5\n"                                          \
                                   "   ldm r6, {r8, r9, r10, r11}\n" /* y, end, x_skip, y_step */  \
                                   "   strb r2, [r8]\n"                                            \
                                   "   strb r3, [r8, #1]\n"                                        \
                                   "   strb r4, [r8, #2]\n"                                        \
                                   "   strb r5, [r8, #3]\n"                                        \
                                   "   add r8, r11\n"                                              \
                                   "   str r8, [r6]\n"                                             \
                                   "   add r0, r10\n"                                              \
                                   "   cmp r8, r9\n"                                               \
                                   "   bne 1b\n"                                                   \
            : "+r"(r0), "+r"(r1)                                                                   \
            :                                                                                      \
            : "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr", "cc",           \
              "memory");                                                                           \
    } while (0)
#define KG_SPAN(x, tile, SUMS)        KG_SPAN_OF(x, tile, SUMS, NEAREST)
#define KG_SPAN_TFLITE(x, tile, SUMS) KG_SPAN_OF(x, tile, SUMS, TFLITE)

/* Adds products to four sums: SUMS without the loop over pixels. */
#define KG_SUM(acc, x, weights, n, SUMS)                                                           \
    do {                                                                                           \
        register const void *r0 __asm__("r0") = (x), *r6 __asm__("r6") = (weights);                \
        register int32_t r1 __asm__("r1") = (n);                                                   \
        register int32_t r2 __asm__("r2") = (acc)[0], r3 __asm__("r3") = (acc)[1];                 \
        register int32_t r4 __asm__("r4") = (acc)[2], r5 __asm__("r5") = (acc)[3];                 \
        __asm__ volatile("push {r7}\n" SUMS "pop {r7}\n"                                           \
                         : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6)    \
                         :                                                                         \
                         : "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");                 \
        (acc)[0] = r2;                                                                             \
        (acc)[1] = r3;                                                                             \
        (acc)[2] = r4;                                                                             \
        (acc)[3] = r5;                                                                             \
    } while (0)

/* SUMS of pairs that are int16 already: four channels, two products each.  Written out by the
 * preprocessor, because compilers count lines to know how far a branch goes. */
#define KG_PAIR                                                                                    \
    "   ldm r0!, {r7, r8, r9, r10}\n"                                                              \
    "   ldm r6!, {r1, r11, r12, lr}\n"                                                             \
    "   smlad r2, r7, r1, r2\n"                                                                    \
    "   smlad r3, r8, r11, r3\n"                                                                   \
    "   smlad r4, r9, r12, r4\n"                                                                   \
    "   smlad r5, r10, lr, r5\n"
#define KG_PAIRS_3  KG_PAIR KG_PAIR KG_PAIR
#define KG_PAIRS_6  KG_PAIRS_3 KG_PAIRS_3
#define KG_PAIRS_7  KG_PAIRS_6 KG_PAIR
#define KG_PAIRS_14 KG_PAIRS_7 KG_PAIRS_7
#define KG_PAIRS_15 KG_PAIRS_14 KG_PAIR
#define KG_PAIRS_28 KG_PAIRS_14 KG_PAIRS_14

/// Writing gradients ///

/* kg_block_put for LANES channels. */
ALONE static void put_lanes(kg_block_writer *w, int32_t pixel, int32_t c, const int32_t *value) {
    for (int32_t k = 0; k < LANES; k++) w->seen |= magnitude(value[k]);
    if (w->seen >> (w->bits + w->shift)) kg_block_widen(w, pixel, c, LANES);
    const int32_t shift = w->shift;
    uint32_t odd[LANES];
    for (int32_t k = 0; k < LANES; k++) odd[k] = (uint32_t)kg_round_to_odd(value[k], shift);
    const uint32_t pairs[2] = {low_halves(odd[0], odd[1]), low_halves(odd[2], odd[3])};
    __builtin_memcpy(w->block->mantissa + pixel * w->channels + c, pairs, sizeof pairs);
}

/* What a loop over pixels needs to write LANES channels of a gradient; the assembly knows this
 * layout. */
typedef struct {
    int32_t count, sums[LANES]; /* count: for the loop over weights; sums: 0 */
    const uint32_t *weights;
    uint32_t seen; /* of the writer, like its shift */
    int32_t room;  /* bits that seen may have */
    uint32_t mask;
    int32_t shift;
    int16_t *y; /* the next pixel */
    int32_t y_step;
    int16_t *end;
    int32_t x_skip; /* as in a tile */
} gradients;

/* KG_SPAN for gradients: magnitudes into seen, and rounding to odd as
 * (x | (lost + mask)) >> shift.  Stops before a pixel that has no room, with its sums. */
#define KG_GRADIENTS(x, gradients, SUMS)                                                           \
    do {                                                                                           \
        register const void *r0 __asm__("r0") = (x);                                               \
        register void *r1 __asm__("r1") = (gradients);                                             \
        __asm__ volatile("   push {r1, r7}\n"                                                      \
                         "1: ldr r7, [sp]\n"                                                       \
                         "   ldm r7, {r1, r2, r3, r4, r5, r6}\n" SUMS "   ldr r7, [sp]\n"          \
                         "   add r8, r7, #24\n"                                                    \
                         "   ldm r8, {r1, r6, r9, r10, r11, r12, lr}\n"                            \
                         "   eor r8, r2, r2, asr #31\n"                                            \
                         "   sub r8, r8, r2, asr #31\n"                                            \
                         "   orr r1, r8\n"                                                         \
                         "   eor r8, r3, r3, asr #31\n"                                            \
                         "   sub r8, r8, r3, asr #31\n"                                            \
                         "   orr r1, r8\n"                                                         \
                         "   eor r8, r4, r4, asr #31\n"                                            \
                         "   sub r8, r8, r4, asr #31\n"                                            \
                         "   orr r1, r8\n"                                                         \
                         "   eor r8, r5, r5, asr #31\n"                                            \
                         "   sub r8, r8, r5, asr #31\n"                                            \
                         "   orr r1, r8\n"                                                         \
                         "   lsrs r8, r1, r6\n"                                                    \
                         "   bne 8f\n"                                                             \
                         "   and r8, r2, r9\n"                                                     \
                         "   add r8, r9\n"                                                         \
                         "   orr r2, r8\n"                                                         \
                         "   asr r2, r10\n"                                                        \
                         "   and r8, r3, r9\n"                                                     \
                         "   add r8, r9\n"                                                         \
                         "   orr r3, r8\n"                                                         \
                         "   asr r3, r10\n"                                                        \
                         "   and r8, r4, r9\n"                                                     \
                         "   add r8, r9\n"                                                         \
                         "   orr r4, r8\n"                                                         \
                         "   asr r4, r10\n"                                                        \
                         "   and r8, r5, r9\n"                                                     \
                         "   add r8, r9\n"                                                         \
                         "   orr r5, r8\n"                                                         \
                         "   asr r5, r10\n"                                                        \
                         "   pkhbt r2, r2, r3, lsl #16\n"                                          \
                         "   pkhbt r4, r4, r5, lsl #16\n"                                          \
                         "   str r2, [r11]\n"                                                      \
                         "   str r4, [r11, #4]\n"                                                  \
                         "   add r11, r12\n"                                                       \
                         "   str r1, [r7, #24]\n"                                                  \
                         "   ldr r8, [r7, #52]\n"                                                  \
                         "   str r11, [r7, #40]\n"                                                 \
                         "   add r0, r8\n"                                                         \
                         "   cmp r11, lr\n"                                                        \
                         "   bne 1b\n"                                                             \
                         "   b 9f\n"                                                               \
                         "8: add r8, r7, #4\n"                                                     \
                         "   stm r8, {r2, r3, r4, r5}\n"                                           \
                         "9: pop {r1, r7}\n"                                                       \
                         : "+r"(r0), "+r"(r1)                                                      \
                         :                                                                         \
                         : "r2", "r3", "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "lr",    \
                           "cc", "memory");                                                        \
        return r0;                                                                                 \
    } while (0)

/* Writes channels c .. c + LANES of `pixels` neighbours.  `some` is a KG_GRADIENTS. */
static inline void put_gradients(kg_block_writer *w, gradients *t, const void *x, int32_t pixel,
                                 int32_t pixels, int32_t c, int32_t kernel,
                                 const void *(*some)(const void *, gradients *, int32_t)) {
    t->y = w->block->mantissa + pixel * w->channels + c;
    t->end = t->y + pixels * w->channels;
    t->y_step = w->channels * (int32_t)sizeof *t->y;
    const int16_t *first = t->y;
    while (t->y != t->end) {
        t->seen = w->seen;
        t->room = w->bits + w->shift;
        t->mask = ((uint32_t)1 << w->shift) - 1;
        t->shift = w->shift;
        x = some(x, t, kernel);
        w->seen = t->seen;
        if (t->y == t->end) break;
        put_lanes(w, pixel + (int32_t)(t->y - first) / w->channels, c, t->sums);
        for (int32_t k = 0; k < LANES; k++) t->sums[k] = 0;
        x = (const char *)x + t->x_skip;
        t->y += w->channels;
    }
}

#endif
