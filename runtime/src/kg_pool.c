/* Sums and means over the pixels of a map or of small squares of it, and the way back. */
#include "kg_kernels.h"

#include <string.h>

#define GROUP 4 /* channels that are summed at once */

KG_COLD void kg_avg_pool(int8_t *y, const int8_t *x, const kg_avg_pool_params *p) {
    KG_ASSERT(kg_avg_pool_params_ok(p));
    KG_ASSERT(y && x);
    for (int32_t c = 0; c < p->channels; c++) {
        int32_t sum = 0;
        for (int32_t i = 0; i < p->pixels; i++) sum += x[i * p->channels + c];
        y[c] = (int8_t)kg_rounded_mean(sum, p->pixels);
    }
}

KG_COLD void kg_broadcast(kg_block16 *dx, const kg_block16 *dy, const kg_broadcast_params *p) {
    KG_ASSERT(kg_broadcast_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy));
    dx->exponent = dy->exponent;
    for (int32_t i = 0; i < p->pixels; i++)
        for (int32_t c = 0; c < p->channels; c++)
            dx->mantissa[i * p->channels + c] = dy->mantissa[c];
}

void kg_sum_pixels(kg_block32 *db, const kg_block16 *dy, const kg_sum_pixels_params *p) {
    KG_ASSERT(kg_sum_pixels_params_ok(p));
    KG_ASSERT(kg_aligned(db) && kg_aligned(dy));
    db->exponent = dy->exponent;
    for (int32_t c = 0; c < p->channels; c++) db->mantissa[c] = 0;
    for (int32_t i = 0; i < p->pixels; i++)
        for (int32_t c = 0; c < p->channels; c++)
            db->mantissa[c] += dy->mantissa[i * p->channels + c];
}

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
    for (int32_t oy = 0; oy < p->height * p->down; oy++)
        for (int32_t ox = 0; ox < p->width * p->across; ox++, to += pixel)
            memcpy(to, from + (oy / p->down * p->width + ox / p->across) * p->pixel_bytes, pixel);
}

KG_COLD void kg_upsample_grad(kg_block16 *dx, const kg_block16 *dy,
                              const kg_upsample_grad_params *p) {
    KG_ASSERT(kg_upsample_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dx) && kg_aligned(dy));
    const int32_t row = p->width * p->across * p->channels, pixels = p->height * p->width;
    kg_block_writer writer = kg_block_begin(dx, pixels, p->channels, dy->exponent, p->bits);
    for (int32_t c = 0; c < p->channels; c += GROUP) {
        const int32_t n = kg_min(GROUP, p->channels - c);
        for (int32_t i = 0; i < pixels; i++) {
            const int32_t oy = i / p->width, ox = i % p->width;
            const int16_t *box =
                dy->mantissa + oy * p->down * row + ox * p->across * p->channels + c;
            int32_t acc[GROUP] = {0};
            for (int32_t iy = 0; iy < p->down; iy++)
                for (int32_t ix = 0; ix < p->across; ix++)
                    for (int32_t k = 0; k < n; k++) acc[k] += box[iy * row + ix * p->channels + k];
            kg_block_put(&writer, i, c, acc, n);
        }
    }
    kg_block_end(&writer);
}
