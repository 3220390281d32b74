/* Eight int32 lanes of AVX2: what the kernels of this folder share. */
#ifndef KG_AVX2_H
#define KG_AVX2_H

/* Without it, another program would be compiled than the one that was asked for. */
#ifndef __AVX2__
#error "kernels of variants/avx2 need AVX2: compile with -mavx2, or their namesakes in src/"
#endif

#include "kg_kernels.h"

#include <immintrin.h>
#include <string.h>

#define LANES 8

/* 16 int8 as int16. */
static inline __m256i widen(const int8_t *x) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)x));
}

/* The first n of LANES int32. */
static inline __m256i load32(const int32_t *x, int32_t n) {
    int32_t v[LANES] = {0};
    for (int32_t k = 0; k < n; k++) v[k] = x[k];
    return _mm256_loadu_si256((const __m256i *)v);
}

/* kg_requantise for LANES channels.  There is no arithmetic shift of 64 bits: the product is
 * made positive with 2^62 first.  Shifts below 31 (scales above 1) might not fit: done one by one.
 * As TFLite rounds, 31 bits are taken off, and then `more`, half away from zero. */
typedef struct {
    __m256i multiplier, shift_even, shift_odd, add_even, add_odd, subtract, more, below;
    kg_factor factor[LANES];
    int32_t zero, narrow, tflite;
} scaler;

/* For channels c .. c + n.  own: the shifts of channels, rounded as TFLite does, or null. */
static inline scaler make_scaler(const kg_scaling *scaling, const int8_t *own, int32_t c, int32_t n,
                                 int32_t zero) {
    int64_t s[LANES], add[LANES];
    int32_t multiplier[LANES], subtract[LANES], more[LANES], below[LANES], narrow = 0;
    kg_factor factor[LANES];
    for (int32_t k = 0; k < LANES; k++) {
        const int32_t at = c + kg_min(k, n - 1);
        factor[k] = own ? kg_tflite_factor_of(scaling, own, at) : kg_factor_of(scaling, at);
        multiplier[k] = factor[k].multiplier;
        s[k] = own ? 31 : factor[k].shift;
        more[k] = kg_max(0, factor[k].shift - 31);
        below[k] = (int32_t)(((uint32_t)1 << more[k]) - 1);
        narrow |= factor[k].shift < 31;
        add[k] = ((int64_t)1 << 62) + ((int64_t)1 << (s[k] - 1));
        subtract[k] = (int32_t)(uint32_t)(((uint64_t)1 << 62) >> s[k]);
    }
    scaler made = {
        .multiplier = load32(multiplier, LANES),
        .shift_even = _mm256_setr_epi64x(s[0], s[2], s[4], s[6]),
        .shift_odd = _mm256_setr_epi64x(s[1], s[3], s[5], s[7]),
        .add_even = _mm256_setr_epi64x(add[0], add[2], add[4], add[6]),
        .add_odd = _mm256_setr_epi64x(add[1], add[3], add[5], add[7]),
        .subtract = load32(subtract, LANES),
        .more = load32(more, LANES),
        .below = load32(below, LANES),
        .zero = zero,
        .narrow = narrow,
        .tflite = own != 0,
    };
    memcpy(made.factor, factor, sizeof factor);
    return made;
}

static inline __m256i scale(__m256i acc, const scaler *s) {
    const __m256i high = _mm256_srli_epi64(s->multiplier, 32);
    __m256i even = _mm256_mul_epi32(acc, s->multiplier);
    __m256i odd = _mm256_mul_epi32(_mm256_srli_epi64(acc, 32), high);
    even = _mm256_srlv_epi64(_mm256_add_epi64(even, s->add_even), s->shift_even);
    odd = _mm256_srlv_epi64(_mm256_add_epi64(odd, s->add_odd), s->shift_odd);
    const __m256i x =
        _mm256_sub_epi32(_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA), s->subtract);
    if (!s->tflite) return x;
    const __m256i negative = _mm256_srli_epi32(x, 31), rest = _mm256_and_si256(x, s->below);
    const __m256i half = _mm256_add_epi32(_mm256_srli_epi32(s->below, 1), negative);
    return _mm256_sub_epi32(_mm256_srav_epi32(x, s->more), _mm256_cmpgt_epi32(rest, half));
}

/* Four accumulators to int8 codes; y[j * step .. + n] for j < pixels. */
static inline void scale4(int8_t *y, int32_t step, const __m256i *acc, int32_t pixels, int32_t n,
                          const scaler *s) {
    int8_t codes[4][LANES];
    if (s->narrow) {
        int32_t sums[4][LANES];
        memcpy(sums, acc, sizeof sums);
        for (int32_t j = 0; j < pixels; j++)
            for (int32_t k = 0; k < n; k++)
                codes[j][k] =
                    kg_clip_i8(s->zero + (s->tflite ? kg_requantise_tflite(sums[j][k], s->factor[k])
                                                    : kg_requantise(sums[j][k], s->factor[k])));
    } else {
        const __m256i zero = _mm256_set1_epi16((int16_t)s->zero);
        const __m256i a = _mm256_packs_epi32(scale(acc[0], s), scale(acc[1], s));
        const __m256i b = _mm256_packs_epi32(scale(acc[2], s), scale(acc[3], s));
        const __m256i all =
            _mm256_packs_epi16(_mm256_adds_epi16(a, zero), _mm256_adds_epi16(b, zero));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256((__m256i *)codes, _mm256_permutevar8x32_epi32(all, order));
    }
    for (int32_t j = 0; j < pixels; j++) {
        if (n == LANES)
            memcpy(y + j * step, codes[j], LANES);
        else
            memcpy(y + j * step, codes[j], (size_t)n);
    }
}

/* kg_block_put for channels c .. c + n of some neighbours. */
static inline void put4(kg_block_writer *w, int32_t pixel, int32_t c, const __m256i *acc,
                        int32_t pixels, int32_t n) {
    int32_t sums[4][LANES];
    memcpy(sums, acc, sizeof sums);
    for (int32_t j = 0; j < pixels; j++) kg_block_put(w, pixel + j, c, sums[j], n);
}

#endif
