/* From a frame of a camera to the image that a network reads: cut a part of its proportions, scale
 * it, one row at a time. */
#ifndef KG_FRAME_H
#define KG_FRAME_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a pixel is stored. */
typedef enum {
    KG_GREY,          /* a byte */
    KG_RGB,           /* three bytes: red, green, blue */
    KG_BGR,           /* three bytes: blue, green, red */
    KG_RGB565,        /* two bytes, the low one first: blue, green and red from the lowest bit on */
    KG_RGB565_SWAPPED /* two bytes, the high one first, as many cameras send them */
} kg_format;

/* A frame, and the part of it that becomes an image.  At most 4,096 pixels high and wide.
 * Rows are from the top, without gaps. */
typedef struct {
    const uint8_t *pixels;
    int32_t width, height;
    kg_format format;
    int32_t left, top, side; /* the part, in pixels of the frame; `side` is its height */
    int32_t size;            /* the height of the image */
    int32_t channels;        /* of the image: 1 is grey, 3 are red, green, blue */
    int32_t wide;            /* the width of the image; 0 where it is a square */
} kg_frame;

/* Sets the part to the middle of the frame, as the network was trained: of every `resize` pixels of
 * the largest part that fits, so many as the shorter side of the image has. */
void kg_frame_middle(kg_frame *frame, int32_t resize);

/* Writes row `row` of the image, a number for each of its pixels and channels: pixel - 128.  A
 * pixel of the image is the mean of the pixels of the frame that it touches.  It is a `read` of a
 * kg_rows. */
void kg_frame_row(void *frame, int32_t row, int8_t *to);

#ifdef __cplusplus
}
#endif

#endif
