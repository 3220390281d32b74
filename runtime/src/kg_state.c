/* What rules keep beside each element in codes; definitions in quant/codes.py and ops/state.py. */
#include "kg_kernels.h"

/* A row of codes. */
typedef struct {
    void *codes;          /* of all rows */
    int8_t *exponent;     /* of this row */
    int32_t first;        /* number of its first element */
    int32_t bytes;        /* of a code */
    float unit;           /* what a code stands for */
    float codes_per_unit; /* of the new exponent */
    uint32_t key;
} row;

static row row_of(void *state, int32_t r, uint32_t key, const kg_update *u) {
    const int32_t size = u->rows * u->length * u->state_bytes;
    int8_t *exponent = (int8_t *)state + size + r;
    const int32_t first = r * u->length;
    return (row){state, exponent, first, u->state_bytes, kg_pow2(*exponent), 0, key};
}

static float value(const row *x, int32_t j) {
    return kg_code_value(x->codes, x->first + j, x->bytes, x->unit);
}

/* Choose the least exponent with which `most` fits: it is finite and not negative.  Return what a
 * code stands for. */
static float fit(row *x, float most) {
    union {
        float value;
        uint32_t bits;
    } u = {most};
    const int32_t digits = 8 * x->bytes - 1;
    int32_t exponent = kg_max(-126, (int32_t)(u.bits >> 23) - 126 - digits);
    exponent += most * kg_pow2(-exponent) > (float)((1 << digits) - 1);
    if (most == 0) exponent = 0;
    *x->exponent = (int8_t)exponent;
    x->codes_per_unit = kg_pow2(-exponent);
    return kg_pow2(exponent);
}

static void put(const row *x, int32_t j, float real) {
    const int32_t element = x->first + j;
    const uint32_t draw = kg_hash((uint32_t)element ^ x->key);
    const int32_t code = kg_stochastic_round(real * x->codes_per_unit, draw);
    if (x->bytes == 1)
        ((int8_t *)x->codes)[element] = (int8_t)code;
    else
        ((int16_t *)x->codes)[element] = (int16_t)code;
}

/* The new root of a mean square. */
static float root(float old, float g, float decay) {
    return kg_finite(kg_sqrt(decay * (old * old) + (1 - decay) * (g * g)));
}

void kg_state_row(float *g, int32_t r, void *s0, void *s1, float share, const int32_t *clock,
                  const kg_update *u) {
    const int32_t adam = u->rule == KG_ADAM, n = u->together * u->length;
    const float b1 = u->rule == KG_ACCUMULATE ? 1 : u->beta1, b2 = u->beta2;
    row m = row_of(s0, r, kg_key(clock, u->salt + (1u << 30)), u);
    row v = adam ? row_of(s1, r, kg_key(clock, u->salt + (2u << 30)), u) : m;
    float most_m = 0, most_v = 0;
    KG_ROLLED
    for (int32_t j = 0; j < n; j++) {
        const float size = __builtin_fabsf(kg_finite(b1 * value(&m, j) + share * g[j]));
        if (size > most_m) most_m = size;
        if (!adam) continue;
        const float spread = root(value(&v, j), g[j], b2);
        if (spread > most_v) most_v = spread;
    }
    fit(&m, most_m);
    const float code = adam ? fit(&v, most_v) : 0;
    const uint32_t t = (uint32_t)clock[1] + 1;
    const float c1 = adam ? 1 - kg_power(b1, t) : 1;
    const float c2 = adam ? kg_sqrt(1 - kg_power(b2, t)) : 1;
    KG_ROLLED
    for (int32_t j = 0; j < n; j++) {
        const float mean = kg_finite(b1 * value(&m, j) + share * g[j]);
        put(&m, j, mean);
        if (adam) {
            const float spread = root(value(&v, j), g[j], b2);
            put(&v, j, spread);
            g[j] = (mean / c1) / ((spread > code ? spread : code) / c2 + u->epsilon);
        } else {
            g[j] = mean;
        }
    }
}
