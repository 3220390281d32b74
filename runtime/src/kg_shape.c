/* Parts of tensors: taken, put back, joined, padded, copied, and found among the whole. */
#include "kg_kernels.h"

#include <string.h>

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

KG_COLD void kg_take_grad(void *dx, const void *dy, const kg_take_grad_params *p) {
    KG_ASSERT(kg_take_grad_params_ok(p));
    KG_ASSERT(dx && dy);
    char *to = dx;
    const char *from = dy;
    memcpy(to, from, (size_t)p->header);
    to += p->header;
    from += p->header;
    memset(to, 0, (size_t)(p->outer * p->length * p->inner_bytes));
    for (int32_t o = 0; o < p->outer; o++, to += p->length * p->inner_bytes)
        for (int32_t i = 0; i < p->count; i++, from += p->inner_bytes)
            memcpy(to + p->index[i] * p->inner_bytes, from, (size_t)p->inner_bytes);
}

KG_COLD void kg_concat(int8_t *y, const int8_t *const *x, const kg_concat_params *p) {
    KG_ASSERT(kg_concat_params_ok(p));
    KG_ASSERT(y && x);
    for (int32_t o = 0; o < p->outer; o++)
        for (int32_t i = 0; i < p->count; i++) {
            const size_t bytes = (size_t)p->bytes[i];
            memcpy(y, x[i] + (size_t)o * bytes, bytes);
            y += bytes;
        }
}

KG_COLD void kg_pad_map(int8_t *y, const int8_t *x, const kg_pad_map_params *p) {
    KG_ASSERT(kg_pad_map_params_ok(p));
    KG_ASSERT(y && x);
    KG_ASSERT(p->above + p->height <= p->out_height && p->left + p->width <= p->out_width &&
              p->front + p->channels <= p->out_channels);
    memset(y, p->fill, (size_t)(p->out_height * p->out_width * p->out_channels));
    for (int32_t i = 0; i < p->height; i++)
        for (int32_t j = 0; j < p->width; j++, x += p->channels) {
            const int32_t pixel = (p->above + i) * p->out_width + p->left + j;
            memcpy(y + pixel * p->out_channels + p->front, x, (size_t)p->channels);
        }
}

void kg_copy(void *y, const void *x, const kg_copy_params *p) {
    KG_ASSERT(kg_copy_params_ok(p));
    KG_ASSERT(y && x);
    memcpy(y, x, (size_t)p->bytes);
}
