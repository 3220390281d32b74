/* Kilograd runtime: every kernel that the compiler may call.
 *
 * One convention: kg_<op>(out, inputs..., [scratch], params).  Kernels do not allocate, keep no
 * state, do no I/O, and touch only what they are given.  Maps are [height][width][channel],
 * filters [out][height][width][in], depthwise filters [height][width][channel].  Memory that a
 * kernel writes must be 4-byte aligned. */
#ifndef KG_H
#define KG_H

#include "kg_math.h"
#include "kg_rows.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Mantissas that share an exponent: value = mantissa * 2^exponent. */
typedef struct {
    int32_t exponent;
    int16_t mantissa[];
} kg_block16;

typedef struct {
    int32_t exponent;
    int32_t mantissa[];
} kg_block32;

/* Geometry of a convolution. */
typedef struct {
    int16_t in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride, pad_top, pad_left;
} kg_window;

/* Which slices of a weight tensor are found in `learned` instead: `index` increases along `axis`.
 * count = 0: none, `learned` is a null pointer. */
typedef struct {
    const int16_t *index;
    int32_t axis, count;
} kg_overlay;

/// Convolution ///

/* What turns the sums of channel c into codes: times scale[c] * ratio, over 2^shift.  scale[c] is
 * the scale of the weights, as a fraction.  Brought to 31 bits, the factors leave shifts from
 * lowest to highest (kg_factor_of). */
typedef struct {
    const int32_t *scale;
    int32_t ratio, shift, lowest, highest;
} kg_scaling;

typedef struct {
    kg_window window;
    kg_overlay overlay;
    int32_t x_zero, y_zero;
    kg_scaling scaling;
} kg_conv_params, kg_depthwise_params;

typedef struct {
    kg_window window; /* of the forward convolution: "in" is dx, "out" is dy */
    kg_overlay overlay;
    int32_t bits;
} kg_conv_input_grad_params, kg_depthwise_input_grad_params;

typedef struct {
    kg_window window;
    int32_t x_zero;
} kg_conv_weight_grad_params, kg_depthwise_weight_grad_params;

void kg_conv(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned, const int32_t *b,
             int8_t *scratch, const kg_conv_params *p);
void kg_conv_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                        const int8_t *learned, int8_t *scratch, const kg_conv_input_grad_params *p);
void kg_conv_weight_grad(kg_block32 *dw, const int8_t *x, const kg_block16 *dy,
                         const kg_conv_weight_grad_params *p);

void kg_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                  const int32_t *b, int8_t *scratch, const kg_depthwise_params *p);
void kg_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                             const int8_t *learned, int8_t *scratch,
                             const kg_depthwise_input_grad_params *p);
void kg_depthwise_weight_grad(kg_block32 *dw, const int8_t *x, const kg_block16 *dy,
                              const kg_depthwise_weight_grad_params *p);

/// Element by element ///

typedef struct {
    int32_t size, a_zero, c_zero, y_zero, a_multiplier, c_multiplier, shift;
} kg_add_params;

typedef struct {
    int32_t size;
} kg_clip_mask_params, kg_clip_grad_params;

typedef struct {
    int32_t size, channels;
    const int32_t *factor; /* 31-bit fractions */
    int32_t exponent, bits;
} kg_scale_channels_params;

typedef struct {
    int32_t size, bits;
} kg_block_add_params, kg_to_block_params;

void kg_add(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_params *p);
void kg_clip_mask(uint8_t *mask, const int8_t *y, const kg_clip_mask_params *p);
void kg_clip_grad(kg_block16 *dx, const kg_block16 *dy, const uint8_t *mask,
                  const kg_clip_grad_params *p);
void kg_scale_channels(kg_block16 *y, const kg_block16 *x, const kg_scale_channels_params *p);
void kg_block_add(kg_block16 *y, const kg_block16 *a, const kg_block16 *c,
                  const kg_block_add_params *p);

/// Streams ///

typedef enum { KG_STAGE_CONV, KG_STAGE_DEPTHWISE, KG_STAGE_ADD, KG_STAGE_ROWS } kg_stage_kind;

/* A layer of a stream: what it computes a whole map with, and the buffer that keeps its newest
 * rows, at `offset` of the scratch memory.  source: stages whose rows it reads; -1: the input. */
typedef struct {
    const void *params; /* kg_conv_params, kg_depthwise_params or kg_add_params; rows: null */
    const int8_t *w;
    const int32_t *b;
    int32_t row_bytes, offset;
    int16_t kind, source[2], height, rows;
} kg_stage;

typedef struct {
    const kg_stage *stages;
    int32_t count, row_bytes, height, work_offset;
} kg_stream_params;

/* The input is the map x, or comes from `rows`, which then are stage 0. */
void kg_stream(int8_t *y, const int8_t *x, const kg_rows *rows, uint8_t *scratch,
               const kg_stream_params *p);

/// Pixels ///

typedef struct {
    int32_t pixels, channels;
} kg_avg_pool_params, kg_broadcast_params, kg_sum_pixels_params;

void kg_avg_pool(int8_t *y, const int8_t *x, const kg_avg_pool_params *p);
void kg_broadcast(kg_block16 *dx, const kg_block16 *dy, const kg_broadcast_params *p);
void kg_sum_pixels(kg_block32 *db, const kg_block16 *dy, const kg_sum_pixels_params *p);

/* Squares of size * size pixels; height and width count the squares. */
typedef struct {
    int32_t height, width, channels, size;
} kg_window_pool_params;

typedef struct {
    int32_t header, height, width, pixel_bytes, size;
} kg_upsample_params;

typedef struct {
    int32_t height, width, channels, size, bits;
} kg_upsample_grad_params;

void kg_window_pool(int8_t *y, const int8_t *x, const kg_window_pool_params *p);
void kg_upsample(void *y, const void *x, const kg_upsample_params *p);
void kg_upsample_grad(kg_block16 *dx, const kg_block16 *dy, const kg_upsample_grad_params *p);

/// Parts ///

typedef struct {
    int32_t bytes;
} kg_copy_params;

void kg_copy(void *y, const void *x, const kg_copy_params *p);

typedef struct {
    int32_t header, outer, length, inner_bytes, count;
    const int16_t *index;
} kg_take_params, kg_take_grad_params;

typedef struct {
    int32_t pixels, a_channels, c_channels;
} kg_concat_params;

void kg_take(void *y, const void *x, const kg_take_params *p);
void kg_take_grad(void *dx, const void *dy, const kg_take_grad_params *p);
void kg_concat(int8_t *y, const int8_t *a, const int8_t *c, const kg_concat_params *p);

/// Head and loss ///

typedef struct {
    int32_t size, zero;
    float scale;
} kg_dequantise_params;

typedef struct {
    int32_t in, out;
} kg_dense_params, kg_dense_input_grad_params, kg_dense_weight_grad_params;

typedef struct {
    int32_t in, out;
    float scale;
} kg_cosine_params, kg_cosine_input_grad_params, kg_cosine_prototype_grad_params;

typedef struct {
    int32_t classes;
} kg_cross_entropy_params, kg_cross_entropy_grad_params;

void kg_dequantise(float *y, const int8_t *x, const kg_dequantise_params *p);
void kg_to_block(kg_block16 *y, const float *x, const kg_to_block_params *p);
void kg_dense(float *y, const float *x, const float *w, const float *b, const kg_dense_params *p);
void kg_dense_input_grad(float *dx, const float *dy, const float *w,
                         const kg_dense_input_grad_params *p);
void kg_dense_weight_grad(float *dw, const float *x, const float *dy,
                          const kg_dense_weight_grad_params *p);
void kg_cosine(float *y, const float *x, const float *prototypes, const kg_cosine_params *p);
void kg_cosine_input_grad(float *dx, const float *dy, const float *x, const float *prototypes,
                          const kg_cosine_input_grad_params *p);
void kg_cosine_prototype_grad(float *dp, const float *dy, const float *x, const float *prototypes,
                              const kg_cosine_prototype_grad_params *p);
void kg_cross_entropy(float *loss, const float *logits, const int32_t *label,
                      const kg_cross_entropy_params *p);
void kg_cross_entropy_grad(float *d, const float *logits, const int32_t *label, const float *dy,
                           const kg_cross_entropy_grad_params *p);

/// Updates ///

typedef enum { KG_SGD, KG_ROWRMS, KG_ADAM, KG_ACCUMULATE } kg_rule;

/* How a parameter is cut into rows and how a row steps.  Element j of row r is number
 * r * row_stride + j * element_stride of the parameter, and r * length + j of each state. */
typedef struct {
    int32_t rule; /* kg_rule */
    int32_t element_bytes, is_float;
    int32_t rows, length, row_stride, element_stride;
    uint32_t salt;
    const int32_t *scale; /* of each row: codes / scale codes a real unit; null: reals are stored */
    float codes, gradient_scale, beta1, beta2, epsilon;
} kg_update;

typedef struct {
    kg_update update;
} kg_update_block_params, kg_update_float_params;

typedef struct {
    kg_window window;
    int32_t x_zero;
    kg_update update;
} kg_conv_weight_update_params, kg_depthwise_weight_update_params;

typedef struct {
    int32_t in, out;
    kg_update update;
} kg_dense_weight_update_params;

typedef struct {
    int32_t bytes;
} kg_clear_params;

typedef struct {
    int32_t in;
} kg_enrol_params, kg_lookup_params;

typedef struct {
    int32_t pixels, channels, zero;
    float scale;
} kg_fisher_sum_params;

/* s0, s1: states of the rule or null; clock: seed and step; scratch: one row of floats.
 * KG_ACCUMULATE takes the sample's share of the mean in place of lr, and no clock. */
void kg_update_block(void *w, const kg_block32 *g, float *s0, float *s1, const float *lr,
                     const int32_t *clock, float *scratch, const kg_update_block_params *p);
void kg_update_float(void *w, const float *g, float *s0, float *s1, const float *lr,
                     const int32_t *clock, float *scratch, const kg_update_float_params *p);
void kg_conv_weight_update(void *w, const int8_t *x, const kg_block16 *dy, float *s0, float *s1,
                           const float *lr, const int32_t *clock, void *scratch,
                           const kg_conv_weight_update_params *p);
void kg_depthwise_weight_update(void *w, const int8_t *x, const kg_block16 *dy, float *s0,
                                float *s1, const float *lr, const int32_t *clock, void *scratch,
                                const kg_depthwise_weight_update_params *p);
void kg_dense_weight_update(void *w, const float *x, const float *dy, float *s0, float *s1,
                            const float *lr, const int32_t *clock, float *scratch,
                            const kg_dense_weight_update_params *p);
void kg_clear(void *w, const kg_clear_params *p);
void kg_fisher_sum(float *sums, const int8_t *a, const kg_block16 *g,
                   const kg_fisher_sum_params *p);
void kg_enrol(float *prototypes, const float *x, const int32_t *label, const kg_enrol_params *p);
void kg_lookup(float *y, const float *table, const int32_t *label, const kg_lookup_params *p);

#ifdef __cplusplus
}
#endif

#endif
