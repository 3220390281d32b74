/* float32 arithmetic with the same bits on every machine; definitions in quant/float32.py. */
#include "kg_math.h"

KG_COLD float kg_pow2(int32_t exponent) {
    if (exponent < -126) return 0;
    union {
        uint32_t bits;
        float value;
    } u = {(uint32_t)(kg_min(exponent, 127) + 127) << 23};
    return u.value;
}

KG_COLD float kg_power(float base, uint32_t exponent) {
    float result = 1, square = base;
    for (; exponent; exponent >>= 1) {
        if (exponent & 1) result = result * square;
        square = square * square;
    }
    return result;
}

KG_COLD float kg_exp(float x) {
    KG_ASSERT(!(x > 0));
    if (!(x >= -87)) return 0;
    const int32_t n = (int32_t)(x * 1.44269504f - 0.5f);
    const float r = (x - (float)n * 0.693359375f) - (float)n * -2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    return p * kg_pow2(n);
}

KG_COLD float kg_log(float x) {
    KG_ASSERT(x >= 1.17549435e-38f && x <= KG_FLOAT_MAX);
    union {
        float value;
        uint32_t bits;
    } u = {x};
    int32_t n = (int32_t)(u.bits >> 23) - 126;
    u.bits = (u.bits & 0x007FFFFFu) | 0x3F000000u; /* mantissa in [1/2, 1) */
    float mantissa = u.value;
    if (mantissa < 0.707106781f) {
        mantissa = mantissa * 2;
        n--;
    }
    const float s = (mantissa - 1) / (mantissa + 1), z = s * s;
    float p = 1.0f / 9;
    p = p * z + 1.0f / 7;
    p = p * z + 1.0f / 5;
    p = p * z + 1.0f / 3;
    p = p * z + 1;
    return (2 * s) * p + (float)n * 0.693147181f;
}

/* sqrt is rounded correctly by IEEE 754, so any implementation gives the same bits; this is the
 * instruction where there is one. */
float kg_sqrt(float x) { return __builtin_sqrtf(x); }

KG_COLD float kg_tamed(float x) { return x > 0 ? KG_FLOAT_MAX : x < 0 ? -KG_FLOAT_MAX : 0; }

int32_t kg_stochastic_round(float x, uint32_t draw) {
    KG_ASSERT(x >= -KG_STEP_MAX && x <= KG_STEP_MAX);
    int32_t floor = (int32_t)x;
    if ((float)floor > x) floor--;
    return floor + ((float)(draw >> 9) + 0.5f < (x - (float)floor) * 8388608.0f);
}
