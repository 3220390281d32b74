/* Arithmetic that every kernel shares; mirrors src/kilograd/quant/ bit for bit.
 *
 * Right shifts of negative numbers are arithmetic, as on every compiler for the targets. */
#ifndef KG_MATH_H
#define KG_MATH_H

#include <stddef.h>
#include <stdint.h>

/* No fused multiply-add: it would round once where other machines round twice.  gcc ignores the
 * pragma of the standard; it fuses nothing with -std=c99, but does in its own dialect, gnu11. */
#if defined __clang__
#pragma STDC FP_CONTRACT OFF
#elif defined __GNUC__ && !defined __STRICT_ANSI__
#pragma GCC optimize("fp-contract=off")
#endif

#define KG_ZERO_EXPONENT (-1000)

/* Code that runs rarely: compilers favour its size. */
#ifdef __GNUC__
#define KG_COLD __attribute__((cold))
#else
#define KG_COLD
#endif

/* Written out for each caller, whose constants choose what is left of it. */
#ifdef __GNUC__
#define KG_INLINE __attribute__((always_inline)) static inline
#else
#define KG_INLINE static inline
#endif

/* In front of a loop that gains nothing where it is written out several times. */
#ifdef __clang__
#define KG_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define KG_ROLLED
#endif

/* What a program takes for granted, checked in builds with KG_CHECKED and free in others. */
#ifndef KG_ASSERT
#ifdef KG_CHECKED
#include <assert.h>
#define KG_ASSERT(condition) assert(condition)
#else
#define KG_ASSERT(condition) ((void)0)
#endif
#endif

static inline int32_t kg_min(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t kg_max(int32_t a, int32_t b) { return a > b ? a : b; }

/* x limited to two codes. */
static inline int8_t kg_clamp_i8(int64_t x, int32_t lowest, int32_t highest) {
    return (int8_t)(x < lowest ? lowest : x > highest ? highest : x);
}

static inline int8_t kg_clip_i8(int64_t x) { return (int8_t)(x < -128 ? -128 : x > 127 ? 127 : x); }

/* a + b modulo 2^32: a bias in a damaged state may be any number. */
static inline int32_t kg_add_wrapping(int32_t a, int32_t b) {
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

/* sum / n for 0 < n < 2^31 / 257 and |sum| <= 128 n, rounded half to even:
 * floor((2 sum + n) / 2n), one less where that is exact and odd. */
static inline int32_t kg_rounded_mean(int32_t sum, int32_t n) {
    KG_ASSERT(n > 0 && n <= INT32_MAX / 257 && sum <= 128 * n && sum >= -128 * n);
    const int32_t doubled = 2 * sum + n;
    int32_t q = doubled / (2 * n), rest = doubled % (2 * n);
    if (rest < 0) {
        q--;
        rest += 2 * n;
    }
    return q - (rest == 0 && (q & 1));
}

/* multiplier / 2^shift */
typedef struct {
    int32_t multiplier, shift;
} kg_factor;

/* acc * factor for 1 <= shift <= 62 and a multiplier >= 0, rounded half up: 2^62 + 2^61 fit. */
static inline int64_t kg_requantise(int32_t acc, kg_factor f) {
    KG_ASSERT(f.multiplier >= 0 && f.shift >= 1 && f.shift <= 62);
    return ((int64_t)acc * f.multiplier + ((int64_t)1 << (f.shift - 1))) >> f.shift;
}

/* The same rounded as TFLite does: where more than 31 bits are taken off, first those, half up,
 * then the others, half away from zero. */
static inline int64_t kg_requantise_tflite(int32_t acc, kg_factor f) {
    const int32_t more = f.shift - 31;
    if (more <= 0) return kg_requantise(acc, f);
    const int64_t high = kg_requantise(acc, (kg_factor){f.multiplier, 31});
    return (high + ((int64_t)1 << (more - 1)) - (high < 0)) >> more;
}

/* x / 2^shift for 0 <= shift <= 31; an inexact result takes whichever neighbour is odd. */
static inline int32_t kg_round_to_odd(int32_t x, int32_t shift) {
    KG_ASSERT(shift >= 0 && shift <= 31);
    const uint32_t lost = (uint32_t)x & (((uint32_t)1 << shift) - 1);
    return (x >> shift) | (lost != 0);
}

/* |x|. */
static inline uint32_t kg_magnitude(int32_t x) { return x < 0 ? 0 - (uint32_t)x : (uint32_t)x; }

static inline int32_t kg_bit_length(uint32_t x) {
    int32_t n = 0;
    while (x) {
        n++;
        x >>= 1;
    }
    return n;
}

/* ---- float32: only +, -, *, / and sqrt, in a stated order ---- */

float kg_pow2(int32_t exponent);
float kg_power(float base, uint32_t exponent);
float kg_exp(float x); /* x <= 0; 0 for NaN */
float kg_log(float x); /* normal x > 0 */
float kg_sqrt(float x);

#define KG_FLOAT_MAX 3.402823466e+38f /* the largest finite one */

static inline int kg_is_finite(float x) { return __builtin_fabsf(x) <= KG_FLOAT_MAX; }

float kg_tamed(float x);

/* x; 0 for NaN, and the largest finite number for an infinity: what floats are kept as.  The bits
 * of a NaN differ from one processor to the next. */
static inline float kg_finite(float x) { return kg_is_finite(x) ? x : kg_tamed(x); }

/* ---- stochastic rounding from a counter ---- */

static inline uint32_t kg_hash(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

#define KG_STEP_MAX 1073741824.0f /* 2^30 */

/* Round x, |x| <= KG_STEP_MAX, to a neighbour; `draw` is a hash of (seed, step, tensor, element).
 */
int32_t kg_stochastic_round(float x, uint32_t draw);

#endif
