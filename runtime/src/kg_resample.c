/* Maps made smaller and larger, cut and joined. */
#include "kg_kernels.h"

#include <string.h>

#define GROUP 4 /* channels that are summed at once */

KG_COLD void kg_window_pool(int8_t *y, const int8_t *x, const kg_window_pool_params *p) {
    KG_ASSERT(kg_window_pool_params_ok(p));
    KG_ASSERT(y && x);
    const int32_t row = p->width * p->size * p->channels, pixels = p->size * p->size;
    for (int32_t oy = 0; oy < p->height; oy++)
        for (int32_t ox = 0; ox < p->width; ox++) {
            const int8_t *square = x + oy * p->size * row + ox * p->size * p->channels;
            for (int32_t c = 0; c < p->channels; c++) {
                int32_t sum = 0;
                for (int32_t i = 0; i < p->size; i++)
                    for (int32_t j = 0; j < p->size; j++)
                        sum += square[i * row + j * p->channels + c];
                *y++ = (int8_t)kg_rounded_mean(sum, pixels);
            }
        }
}

KG_COLD void kg_upsample(void *y, const void *x, const kg_upsample_params *p) {
    KG_ASSERT(kg_upsample_params_ok(p));
    KG_ASSERT(y && x);
    char *to = y;
    const char *from = x;
    const size_t pixel = (size_t)p->pixel_bytes;
    memcpy(to, from, (size_t)p->header);
    to += p->header;
    from += p->header;
    for (int32_t oy = 0; oy < p->height * p->size; oy++)
        for (int32_t ox = 0; ox < p->width * p->size; ox++, to += pixel)
            memcpy(to, from + (oy / p->size * p->width + ox / p->size) * p->pixel_bytes, pixel);
}

KG_COLD void kg_upsample_grad(kg_block16 *dx, const kg_block16 *dy,
                              const kg_upsample_grad_params *p) {
    KG_ASSERT(kg_upsample_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy));
    const int32_t row = p->width * p->size * p->channels, pixels = p->height * p->width;
    kg_block_writer writer = kg_block_begin(dx, pixels, p->channels, dy->exponent, p->bits);
    for (int32_t c = 0; c < p->channels; c += GROUP) {
        const int32_t n = kg_min(GROUP, p->channels - c);
        for (int32_t i = 0; i < pixels; i++) {
            const int32_t oy = i / p->width, ox = i % p->width;
            const int16_t *square =
                dy->mantissa + oy * p->size * row + ox * p->size * p->channels + c;
            int32_t acc[GROUP] = {0};
            for (int32_t iy = 0; iy < p->size; iy++)
                for (int32_t ix = 0; ix < p->size; ix++)
                    for (int32_t k = 0; k < n; k++)
                        acc[k] += square[iy * row + ix * p->channels + k];
            kg_block_put(&writer, i, c, acc, n);
        }
    }
    kg_block_end(&writer);
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

KG_COLD void kg_concat(int8_t *y, const int8_t *a, const int8_t *c, const kg_concat_params *p) {
    KG_ASSERT(kg_concat_params_ok(p));
    KG_ASSERT(y && a && c);
    const size_t first = (size_t)p->a_channels, second = (size_t)p->c_channels;
    for (int32_t i = 0; i < p->pixels; i++, a += first, c += second, y += first + second) {
        memcpy(y, a, first);
        memcpy(y + first, c, second);
    }
}
