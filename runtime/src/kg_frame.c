#include "kg_frame.h"

#include "kg_math.h"

static int32_t image_width(const kg_frame *f) { return f->wide ? f->wide : f->size; }

/* The width of the part that is cut out, of the proportions of the image. */
static int32_t cut_width(const kg_frame *f) {
    return kg_max(1, f->side * image_width(f) / f->size);
}

void kg_frame_middle(kg_frame *f, int32_t resize) {
    const int32_t wide = image_width(f), shorter = kg_min(f->size, wide);
    KG_ASSERT(shorter > 0 && shorter <= resize && kg_min(f->width, f->height) > 0);
    const int32_t fits = kg_min(f->height, f->width * f->size / wide);
    f->side = kg_max(1, (fits * shorter + resize / 2) / resize);
    f->left = (f->width - cut_width(f)) / 2;
    f->top = (f->height - f->side) / 2;
}

/* Adds red, green and blue of a pixel, 0 ... 255 each. */
static void add_pixel(const kg_frame *f, int32_t x, int32_t y, uint32_t *sums) {
    static const int32_t bytes[] = {1, 3, 3, 2, 2};
    const uint8_t *p = f->pixels + (y * f->width + x) * bytes[f->format];
    uint32_t red = p[0], green = p[0], blue = p[0];
    if (f->format == KG_RGB || f->format == KG_BGR) {
        red = f->format == KG_RGB ? p[0] : p[2];
        green = p[1];
        blue = f->format == KG_RGB ? p[2] : p[0];
    } else if (f->format != KG_GREY) {
        const int32_t high = f->format == KG_RGB565;
        const uint32_t both = (uint32_t)p[high] << 8 | p[1 - high];
        red = both >> 11 << 3 | both >> 13;
        green = (both >> 5 & 63) << 2 | (both >> 9 & 3);
        blue = (both & 31) << 3 | (both >> 2 & 7);
    }
    if (f->channels == 1) { /* as bright as it looks: ITU-R 601 */
        sums[0] += (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16;
        return;
    }
    sums[0] += red;
    sums[1] += green;
    sums[2] += blue;
}

void kg_frame_row(void *frame, int32_t row, int8_t *to) {
    const kg_frame *f = frame;
    const int32_t side = f->side, size = f->size, wide = image_width(f), across = cut_width(f);
    KG_ASSERT(f->left >= 0 && f->top >= 0 && side > 0 && side <= 4096 && across <= 4096);
    KG_ASSERT(f->left + across <= f->width && f->top + side <= f->height);
    KG_ASSERT(f->channels == 1 || f->channels == 3);
    const int32_t top = row * side / size, bottom = ((row + 1) * side + size - 1) / size;
    for (int32_t col = 0; col < wide; col++) {
        const int32_t left = col * across / wide, right = ((col + 1) * across + wide - 1) / wide;
        uint32_t sums[3] = {0, 0, 0};
        for (int32_t y = top; y < bottom; y++)
            for (int32_t x = left; x < right; x++) add_pixel(f, f->left + x, f->top + y, sums);
        const uint32_t n = (uint32_t)((bottom - top) * (right - left));
        for (int32_t c = 0; c < f->channels; c++)
            *to++ = (int8_t)((int32_t)((sums[c] + n / 2) / n) - 128);
    }
}
