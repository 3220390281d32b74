/* Kilograd runtime: every kernel that the compiler may call.
 *
 * One convention: kg_<op>(out, inputs..., [scratch], params).  Kernels do not allocate, keep no
 * state, do no I/O, and touch only what they are given.  Maps are [height][width][channel],
 * filters [out][height][width][in], depthwise filters [height][width][channel].  Memory that a
 * kernel writes must be 4-byte aligned. */
#ifndef KG_H
#define KG_H

#include "kg_math.h"
#include "kg_params.h"
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

/* What updates take: s0, s1: states of the rule or null, floats or codes with exponents; clock:
 * seed and step; scratch: floats for what steps at once.  KG_ACCUMULATE takes the sample's share of
 * the mean in place of lr, and a clock for codes only. */
typedef enum { KG_SGD, KG_ROWRMS, KG_ADAM, KG_ACCUMULATE, KG_MOMENTUM } kg_rule;

/// Convolution: kg_conv.c ///

void kg_conv(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned, const int32_t *b,
             int8_t *scratch, const kg_conv_params *p);
void kg_conv_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                     const int32_t *b, int8_t *scratch, const kg_conv_limited_params *p);
void kg_conv_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                        const int8_t *learned, int8_t *scratch, const kg_conv_input_grad_params *p);

/// Its weights: kg_conv_weight.c ///

void kg_conv_weight_grad(kg_block32 *dw, const int8_t *x, const kg_block16 *dy,
                         const kg_conv_weight_grad_params *p);
void kg_conv_weight_update(void *w, const int8_t *x, const kg_block16 *dy, void *s0, void *s1,
                           const float *lr, const int32_t *clock, void *scratch,
                           const kg_conv_weight_update_params *p);

/// Depthwise convolution: kg_depthwise.c ///

void kg_depthwise(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                  const int32_t *b, int8_t *scratch, const kg_depthwise_params *p);
void kg_depthwise_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                          const int32_t *b, int8_t *scratch, const kg_depthwise_limited_params *p);
void kg_depthwise_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                             const int8_t *learned, int8_t *scratch,
                             const kg_depthwise_input_grad_params *p);

/// Its weights: kg_depthwise_weight.c ///

void kg_depthwise_weight_grad(kg_block32 *dw, const int8_t *x, const kg_block16 *dy,
                              const kg_depthwise_weight_grad_params *p);
void kg_depthwise_weight_update(void *w, const int8_t *x, const kg_block16 *dy, void *s0, void *s1,
                                const float *lr, const int32_t *clock, void *scratch,
                                const kg_depthwise_weight_update_params *p);

/// Convolution in groups: kg_grouped.c ///

void kg_grouped_conv(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                     const int32_t *b, int8_t *scratch, const kg_grouped_conv_params *p);
void kg_grouped_conv_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                             const int32_t *b, int8_t *scratch,
                             const kg_grouped_conv_limited_params *p);
void kg_grouped_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                           const int8_t *learned, int8_t *scratch,
                           const kg_grouped_input_grad_params *p);
void kg_grouped_weight_grad(kg_block32 *dw, const int8_t *x, const kg_block16 *dy, int8_t *scratch,
                            const kg_grouped_weight_grad_params *p);
void kg_grouped_weight_update(void *w, const int8_t *x, const kg_block16 *dy, void *s0, void *s1,
                              const float *lr, const int32_t *clock, void *scratch,
                              const kg_grouped_weight_update_params *p);

/// Element by element: kg_elementwise.c ///

void kg_add(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_params *p);
void kg_add_limited(int8_t *y, const int8_t *a, const int8_t *c, const kg_add_limited_params *p);
void kg_clip_mask(uint8_t *mask, const int8_t *y, const kg_clip_mask_params *p);
void kg_limit_mask(uint8_t *mask, const int8_t *y, const kg_limit_mask_params *p);
void kg_clip_grad(kg_block16 *dx, const kg_block16 *dy, const uint8_t *mask,
                  const kg_clip_grad_params *p);
void kg_scale_channels(kg_block16 *y, const kg_block16 *x, const kg_scale_channels_params *p);
void kg_block_add(kg_block16 *y, const kg_block16 *a, const kg_block16 *c,
                  const kg_block_add_params *p);

/// Tables: kg_table.c ///

void kg_table(int8_t *y, const int8_t *x, const kg_table_params *p);
void kg_table_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *x,
                   const kg_table_grad_params *p);

/// Products: kg_product.c ///

void kg_product(int8_t *y, const int8_t *x, const int8_t *factor, const kg_product_params *p);
void kg_product_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *factor,
                     const kg_product_grad_params *p);
void kg_product_sum_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *x,
                         const kg_product_sum_grad_params *p);

/// Layers row by row: kg_stream.c ///

/* Those without a window have the bit of KG_STAGE_ADD. */
typedef enum {
    KG_STAGE_CONV,
    KG_STAGE_DEPTHWISE,
    KG_STAGE_ADD,
    KG_STAGE_ROWS,
    KG_STAGE_CONV_LIMITED,
    KG_STAGE_DEPTHWISE_LIMITED,
    KG_STAGE_ADD_LIMITED,
    KG_STAGE_MAX_POOL = 8,
    KG_STAGE_MEAN_POOL
} kg_stage_kind;

/* kg_stream_limited also has layers with limits, kg_stream_pooled those and pools.  The input is
 * the map x, or comes from `rows`, which then are stage 0. */
void kg_stream(int8_t *y, const int8_t *x, const kg_rows *rows, uint8_t *scratch,
               const kg_stream_params *p);
void kg_stream_limited(int8_t *y, const int8_t *x, const kg_rows *rows, uint8_t *scratch,
                       const kg_stream_params *p);
void kg_stream_pooled(int8_t *y, const int8_t *x, const kg_rows *rows, uint8_t *scratch,
                      const kg_stream_params *p);

/// Pixels: kg_pool.c ///

void kg_avg_pool(int8_t *y, const int8_t *x, const kg_avg_pool_params *p);
void kg_broadcast(kg_block16 *dx, const kg_block16 *dy, const kg_broadcast_params *p);
void kg_sum_pixels(kg_block32 *db, const kg_block16 *dy, const kg_sum_pixels_params *p);
void kg_window_pool(int8_t *y, const int8_t *x, const kg_window_pool_params *p);
void kg_upsample(void *y, const void *x, const kg_upsample_params *p);
void kg_upsample_grad(kg_block16 *dx, const kg_block16 *dy, const kg_upsample_grad_params *p);

/// Means: kg_mean_pool.c ///

typedef enum { KG_MEAN_NEAREST, KG_MEAN_AWAY, KG_MEAN_TWICE } kg_mean_rule;

void kg_mean_pool(int8_t *y, const int8_t *x, const kg_mean_pool_params *p);
void kg_mean_pool_grad(kg_block16 *dx, const kg_block16 *dy, const kg_mean_pool_grad_params *p);

/// The largest: kg_max_pool.c ///

void kg_max_pool(int8_t *y, const int8_t *x, const kg_max_pool_params *p);
void kg_arg_max(void *at, const int8_t *x, const kg_arg_max_params *p);
void kg_max_pool_grad(kg_block16 *dx, const kg_block16 *dy, const void *at,
                      const kg_max_pool_grad_params *p);

/// Parts: kg_shape.c ///

void kg_take(void *y, const void *x, const kg_take_params *p);
void kg_take_grad(void *dx, const void *dy, const kg_take_grad_params *p);
void kg_concat(int8_t *y, const int8_t *const *x, const kg_concat_params *p);
void kg_pad_map(int8_t *y, const int8_t *x, const kg_pad_map_params *p);
void kg_copy(void *y, const void *x, const kg_copy_params *p);

/// Head: kg_head.c ///

void kg_dequantise(float *y, const int8_t *x, const kg_dequantise_params *p);
void kg_to_block(kg_block16 *y, const float *x, const kg_to_block_params *p);
void kg_dense(float *y, const float *x, const float *w, const float *b, const kg_dense_params *p);
void kg_dense_input_grad(float *dx, const float *dy, const float *w,
                         const kg_dense_input_grad_params *p);
void kg_dense_weight_grad(float *dw, const float *x, const float *dy,
                          const kg_dense_weight_grad_params *p);
void kg_dense_weight_update(void *w, const float *x, const float *dy, void *s0, void *s1,
                            const float *lr, const int32_t *clock, float *scratch,
                            const kg_dense_weight_update_params *p);
void kg_cosine(float *y, const float *x, const float *prototypes, const kg_cosine_params *p);
void kg_cosine_input_grad(float *dx, const float *dy, const float *x, const float *prototypes,
                          const kg_cosine_input_grad_params *p);
void kg_cosine_prototype_grad(float *dp, const float *dy, const float *x, const float *prototypes,
                              const kg_cosine_prototype_grad_params *p);

/// Loss: kg_loss.c ///

void kg_cross_entropy(float *loss, const float *logits, const int32_t *label,
                      const kg_cross_entropy_params *p);
void kg_cross_entropy_grad(float *d, const float *logits, const int32_t *label, const float *dy,
                           const kg_cross_entropy_grad_params *p);

/// Importance of channels: kg_fisher.c ///

void kg_fisher_sum(float *sums, const int8_t *a, const kg_block16 *g,
                   const kg_fisher_sum_params *p);

/// Updates: kg_update.c ///

void kg_update_block(void *w, const kg_block32 *g, void *s0, void *s1, const float *lr,
                     const int32_t *clock, float *scratch, const kg_update_block_params *p);
void kg_update_float(void *w, const float *g, void *s0, void *s1, const float *lr,
                     const int32_t *clock, float *scratch, const kg_update_float_params *p);
void kg_update_codes(void *w, const uint8_t *g, void *s0, void *s1, const float *lr,
                     const int32_t *clock, float *scratch, const kg_update_codes_params *p);
void kg_clear(void *w, const kg_clear_params *p);

/// Prototypes: kg_enrol.c ///

void kg_enrol(float *prototypes, const float *x, const int32_t *label, const kg_enrol_params *p);
void kg_lookup(float *y, const float *table, const int32_t *label, const kg_lookup_params *p);

#ifdef __cplusplus
}
#endif

#endif
