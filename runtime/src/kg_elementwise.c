/* int8 maps, element by element. */
#include <string.h>

#include "kg_kernels.h"

void kg_add(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_params *p) {
    KG_ASSERT(kg_add_params_ok(p));
    KG_ASSERT(y && a && c);
    const int64_t half = (int64_t)1 << (p->shift - 1);
    for (int32_t i = 0; i < p->size; i++) {
        const int64_t sum = (int64_t)p->a_multiplier * (a[i] - p->a_zero) +
                            (int64_t)p->c_multiplier * (c[i] - p->c_zero);
        y[i] = kg_clip_i8(p->y_zero + ((sum + half) >> p->shift));
    }
}

KG_COLD void kg_avg_pool(int8_t *y, const int8_t *x, const kg_avg_pool_params *p) {
    KG_ASSERT(kg_avg_pool_params_ok(p));
    KG_ASSERT(y && x);
    for (int32_t c = 0; c < p->channels; c++) {
        int32_t sum = 0;
        for (int32_t i = 0; i < p->pixels; i++) sum += x[i * p->channels + c];
        y[c] = (int8_t)kg_rounded_mean(sum, p->pixels);
    }
}

void kg_copy(void *y, const void *x, const kg_copy_params *p) {
    KG_ASSERT(kg_copy_params_ok(p));
    KG_ASSERT(y && x);
    memcpy(y, x, (size_t)p->bytes);
}

void kg_take(void *y, const void *x, const kg_take_params *p) {
    KG_ASSERT(kg_take_params_ok(p));
    KG_ASSERT(y && x);
    char *to = y;
    const char *from = x;
    memcpy(to, from, (size_t)p->header);
    to += p->header;
    from += p->header;
    for (int32_t o = 0; o < p->outer; o++, from += p->length * p->inner_bytes) KG_ROLLED
    for (int32_t i = 0; i < p->count; i++) {
        const char *slice = from + p->index[i] * p->inner_bytes;
        for (int32_t j = 0; j < p->inner_bytes; j++) *to++ = slice[j]; /* one, or few */
    }
}

void kg_clear(void *w, const kg_clear_params *p) {
    KG_ASSERT(kg_clear_params_ok(p));
    KG_ASSERT(w);
    memset(w, 0, (size_t)p->bytes);
}

int32_t kg_overlay_find(const kg_overlay *overlay, int32_t key) {
    int32_t low = 0, high = overlay->count;
    KG_ROLLED
    while (low < high) {
        const int32_t middle = (low + high) / 2;
        if (overlay->index[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < overlay->count && overlay->index[low] == key ? low : -1;
}
