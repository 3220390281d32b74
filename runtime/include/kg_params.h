/* What kernels are told: every struct, every field, and the values that a kernel takes.
 *
 * Written by docs/make_params.py from the records of src/kilograd/ops; do not edit.  A field of
 * type T * is a table in flash, and its range is that of its elements.  kg_NAME_ok says whether
 * all fields are in range, as the compiler makes sure; kernels assert it in checked builds. */
#ifndef KG_PARAMS_H
#define KG_PARAMS_H

#include <stdint.h>

/* A residual sum: multipliers over 2^shift bring both maps to the scale of the result. */
typedef struct {
    int32_t size;         /* 1 .. 2147483647 */
    int32_t a_zero;       /* -128 .. 127 */
    int32_t c_zero;       /* -128 .. 127 */
    int32_t y_zero;       /* -128 .. 127 */
    int32_t a_multiplier; /* 0 .. 2147483647 */
    int32_t c_multiplier; /* 0 .. 2147483647 */
    int32_t shift;        /* 1 .. 30 */
} kg_add_params;

static inline int kg_add_params_ok(const kg_add_params *p) {
    if (p->size < 1) return 0;
    if (p->a_zero < -128 || p->a_zero > 127) return 0;
    if (p->c_zero < -128 || p->c_zero > 127) return 0;
    if (p->y_zero < -128 || p->y_zero > 127) return 0;
    if (p->a_multiplier < 0) return 0;
    if (p->c_multiplier < 0) return 0;
    if (p->shift < 1 || p->shift > 30) return 0;
    return 1;
}

/* A residual sum, clamped to lowest .. highest. tflite: each map has a shift of its own and gains
 * 20 bits before; multiplier and shift are of the sum. Otherwise the two maps and their sum have
 * one shift. */
typedef struct {
    int32_t size;         /* 1 .. 2147483647 */
    int32_t a_zero;       /* -128 .. 127 */
    int32_t c_zero;       /* -128 .. 127 */
    int32_t y_zero;       /* -128 .. 127 */
    int32_t a_multiplier; /* 0 .. 2147483647 */
    int32_t c_multiplier; /* 0 .. 2147483647 */
    int32_t a_shift;      /* 1 .. 62 */
    int32_t c_shift;      /* 1 .. 62 */
    int32_t multiplier;   /* 0 .. 2147483647 */
    int32_t shift;        /* 1 .. 62 */
    int32_t tflite;       /* 0 .. 1 */
    int32_t lowest;       /* -128 .. 127 */
    int32_t highest;      /* -128 .. 127 */
} kg_add_limited_params;

static inline int kg_add_limited_params_ok(const kg_add_limited_params *p) {
    if (p->size < 1) return 0;
    if (p->a_zero < -128 || p->a_zero > 127) return 0;
    if (p->c_zero < -128 || p->c_zero > 127) return 0;
    if (p->y_zero < -128 || p->y_zero > 127) return 0;
    if (p->a_multiplier < 0) return 0;
    if (p->c_multiplier < 0) return 0;
    if (p->a_shift < 1 || p->a_shift > 62) return 0;
    if (p->c_shift < 1 || p->c_shift > 62) return 0;
    if (p->multiplier < 0) return 0;
    if (p->shift < 1 || p->shift > 62) return 0;
    if (p->tflite < 0 || p->tflite > 1) return 0;
    if (p->lowest < -128 || p->lowest > 127) return 0;
    if (p->highest < -128 || p->highest > 127) return 0;
    if (p->lowest > p->highest) return 0;
    return 1;
}

/* Which of `size` codes were clamped. */
typedef struct {
    int32_t size; /* 1 .. 2147483647 */
} kg_clip_mask_params;

static inline int kg_clip_mask_params_ok(const kg_clip_mask_params *p) {
    if (p->size < 1) return 0;
    return 1;
}

/* Which of `size` codes are strictly between two others. */
typedef struct {
    int32_t size;    /* 1 .. 2147483647 */
    int32_t lowest;  /* -128 .. 127 */
    int32_t highest; /* -128 .. 127 */
} kg_limit_mask_params;

static inline int kg_limit_mask_params_ok(const kg_limit_mask_params *p) {
    if (p->size < 1) return 0;
    if (p->lowest < -128 || p->lowest > 127) return 0;
    if (p->highest < -128 || p->highest > 127) return 0;
    if (p->lowest > p->highest) return 0;
    return 1;
}

/* The gradient of a clamp of `size` elements. */
typedef struct {
    int32_t size; /* 1 .. 2147483647 */
} kg_clip_grad_params;

static inline int kg_clip_grad_params_ok(const kg_clip_grad_params *p) {
    if (p->size < 1) return 0;
    return 1;
}

/* factor: a 31-bit fraction for each of the `channels` channels; exponent: of all factors. */
typedef struct {
    int32_t size;          /* 1 .. 2147483647 */
    int32_t channels;      /* 1 .. 2147483647 */
    const int32_t *factor; /* 1 .. 2147483647 */
    int32_t exponent;      /* -200 .. 200 */
    int32_t bits;          /* 4 .. 15 */
} kg_scale_channels_params;

static inline int kg_scale_channels_params_ok(const kg_scale_channels_params *p) {
    if (p->size < 1) return 0;
    if (p->channels < 1) return 0;
    if (!p->factor) return 0;
    if (p->exponent < -200 || p->exponent > 200) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    if (p->channels > p->size) return 0;
    return 1;
}

/* A sum of two gradients. */
typedef struct {
    int32_t size; /* 1 .. 2147483647 */
    int32_t bits; /* 4 .. 15 */
} kg_block_add_params;

static inline int kg_block_add_params_ok(const kg_block_add_params *p) {
    if (p->size < 1) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    return 1;
}

/* Geometry of a convolution. */
typedef struct {
    int16_t in_h;     /* 0 .. 32767 */
    int16_t in_w;     /* 1 .. 32767 */
    int16_t in_c;     /* 1 .. 32767 */
    int16_t out_h;    /* 1 .. 32767 */
    int16_t out_w;    /* 1 .. 32767 */
    int16_t out_c;    /* 1 .. 32767 */
    int16_t kernel_h; /* 1 .. 32767 */
    int16_t kernel_w; /* 1 .. 32767 */
    int16_t stride_h; /* 1 .. 32767 */
    int16_t stride_w; /* 1 .. 32767 */
    int16_t pad_top;  /* 0 .. 32767 */
    int16_t pad_left; /* 0 .. 32767 */
} kg_window;

static inline int kg_window_ok(const kg_window *p) {
    if (p->in_h < 0) return 0;
    if (p->in_w < 1) return 0;
    if (p->in_c < 1) return 0;
    if (p->out_h < 1) return 0;
    if (p->out_w < 1) return 0;
    if (p->out_c < 1) return 0;
    if (p->kernel_h < 1) return 0;
    if (p->kernel_w < 1) return 0;
    if (p->stride_h < 1) return 0;
    if (p->stride_w < 1) return 0;
    if (p->pad_top < 0) return 0;
    if (p->pad_left < 0) return 0;
    if ((double)p->in_h * p->in_w * p->in_c > 2147483647.0) return 0;
    if ((double)p->out_h * p->out_w * p->out_c > 2147483647.0) return 0;
    if (4.0 * p->kernel_h * p->kernel_w * p->in_c > 2147483647.0) return 0;
    if (4.0 * p->kernel_h * p->kernel_w * p->out_c > 2147483647.0) return 0;
    return 1;
}

/* What turns a sum of n codes into a code from lowest to highest. rule, a kg_mean_rule:
 * KG_MEAN_NEAREST: less n * x_zero, times multiplier, over n * 2^shift, rounded half to even;
 * KG_MEAN_AWAY: over n, rounded half away from zero; the scale stays; KG_MEAN_TWICE: less n *
 * x_zero, times multiplier, over 2^shift, rounded as TFLite does; the multiplier is of one n. */
typedef struct {
    int32_t rule;       /* 0 .. 2 */
    int32_t x_zero;     /* -128 .. 127 */
    int32_t y_zero;     /* -128 .. 127 */
    int32_t multiplier; /* 0 .. 2147483647 */
    int32_t shift;      /* 1 .. 62 */
    int32_t lowest;     /* -128 .. 127 */
    int32_t highest;    /* -128 .. 127 */
} kg_averaging;

static inline int kg_averaging_ok(const kg_averaging *p) {
    if (p->rule < 0 || p->rule > 2) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    if (p->y_zero < -128 || p->y_zero > 127) return 0;
    if (p->multiplier < 0) return 0;
    if (p->shift < 1 || p->shift > 62) return 0;
    if (p->lowest < -128 || p->lowest > 127) return 0;
    if (p->highest < -128 || p->highest > 127) return 0;
    if (p->lowest > p->highest) return 0;
    return 1;
}

/* The mean of what each place of a kernel sees; padding does not count. */
typedef struct {
    kg_window window;
    kg_averaging averaging;
} kg_mean_pool_params;

static inline int kg_mean_pool_params_ok(const kg_mean_pool_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (!kg_averaging_ok(&p->averaging)) return 0;
    if (257.0 * p->window.kernel_h * p->window.kernel_w > 2147483647.0) return 0;
    return 1;
}

/* The gradient of x; `window` is of the forward pass: "in" is dx, "out" is dy. A place that sees n
 * pixels gives each of them 2^exponent / n. */
typedef struct {
    kg_window window;
    int32_t exponent; /* 0 .. 30 */
    int32_t bits;     /* 4 .. 15 */
} kg_mean_pool_grad_params;

static inline int kg_mean_pool_grad_params_ok(const kg_mean_pool_grad_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (p->exponent < 0 || p->exponent > 30) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    return 1;
}

/* The mean of all pixels. */
typedef struct {
    int32_t pixels;   /* 1 .. 8355967 */
    int32_t channels; /* 1 .. 2147483647 */
} kg_avg_pool_params;

static inline int kg_avg_pool_params_ok(const kg_avg_pool_params *p) {
    if (p->pixels < 1 || p->pixels > 8355967) return 0;
    if (p->channels < 1) return 0;
    if ((double)p->pixels * p->channels > 2147483647.0) return 0;
    return 1;
}

/* A pixel, repeated. */
typedef struct {
    int32_t pixels;   /* 1 .. 2147483647 */
    int32_t channels; /* 1 .. 2147483647 */
} kg_broadcast_params;

static inline int kg_broadcast_params_ok(const kg_broadcast_params *p) {
    if (p->pixels < 1) return 0;
    if (p->channels < 1) return 0;
    if ((double)p->pixels * p->channels > 2147483647.0) return 0;
    return 1;
}

/* The sum of all pixels. */
typedef struct {
    int32_t pixels;   /* 1 .. 2147483647 */
    int32_t channels; /* 1 .. 2147483647 */
} kg_sum_pixels_params;

static inline int kg_sum_pixels_params_ok(const kg_sum_pixels_params *p) {
    if (p->pixels < 1) return 0;
    if (p->channels < 1) return 0;
    if ((double)p->pixels * p->channels > 2147483647.0) return 0;
    return 1;
}

/* Squares of size * size pixels become pixels; height and width count the squares. */
typedef struct {
    int32_t height;   /* 1 .. 32767 */
    int32_t width;    /* 1 .. 32767 */
    int32_t channels; /* 1 .. 32767 */
    int32_t size;     /* 1 .. 2890 */
} kg_window_pool_params;

static inline int kg_window_pool_params_ok(const kg_window_pool_params *p) {
    if (p->height < 1 || p->height > 32767) return 0;
    if (p->width < 1 || p->width > 32767) return 0;
    if (p->channels < 1 || p->channels > 32767) return 0;
    if (p->size < 1 || p->size > 2890) return 0;
    if ((double)p->height * p->width * p->channels * p->size * p->size > 2147483647.0) return 0;
    return 1;
}

/* Pixels of `pixel_bytes` become `down` rows of `across` pixels, behind a header. */
typedef struct {
    int32_t header;      /* 0 .. 4 */
    int32_t height;      /* 1 .. 32767 */
    int32_t width;       /* 1 .. 32767 */
    int32_t pixel_bytes; /* 1 .. 2147483647 */
    int32_t down;        /* 1 .. 32767 */
    int32_t across;      /* 1 .. 32767 */
} kg_upsample_params;

static inline int kg_upsample_params_ok(const kg_upsample_params *p) {
    if (p->header < 0 || p->header > 4) return 0;
    if (p->height < 1 || p->height > 32767) return 0;
    if (p->width < 1 || p->width > 32767) return 0;
    if (p->pixel_bytes < 1) return 0;
    if (p->down < 1 || p->down > 32767) return 0;
    if (p->across < 1 || p->across > 32767) return 0;
    if ((double)p->height * p->width * p->pixel_bytes * p->down * p->across > 2147483647.0)
        return 0;
    return 1;
}

/* `down` rows of `across` pixels become a pixel; height and width count the results. */
typedef struct {
    int32_t height;   /* 1 .. 32767 */
    int32_t width;    /* 1 .. 32767 */
    int32_t channels; /* 1 .. 32767 */
    int32_t down;     /* 1 .. 32767 */
    int32_t across;   /* 1 .. 32767 */
    int32_t bits;     /* 4 .. 15 */
} kg_upsample_grad_params;

static inline int kg_upsample_grad_params_ok(const kg_upsample_grad_params *p) {
    if (p->height < 1 || p->height > 32767) return 0;
    if (p->width < 1 || p->width > 32767) return 0;
    if (p->channels < 1 || p->channels > 32767) return 0;
    if (p->down < 1 || p->down > 32767) return 0;
    if (p->across < 1 || p->across > 32767) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    if ((double)p->height * p->width * p->channels * p->down * p->across > 2147483647.0) return 0;
    return 1;
}

/* Which slices of `outer` tensors, each `length` slices of `inner_bytes`, behind a header. */
typedef struct {
    int32_t header;       /* 0 .. 4 */
    int32_t outer;        /* 1 .. 2147483647 */
    int32_t length;       /* 1 .. 2147483647 */
    int32_t inner_bytes;  /* 1 .. 2147483647 */
    int32_t count;        /* 1 .. 2147483647 */
    const int16_t *index; /* 0 .. 32767 */
} kg_take_params;

static inline int kg_take_params_ok(const kg_take_params *p) {
    if (p->header < 0 || p->header > 4) return 0;
    if (p->outer < 1) return 0;
    if (p->length < 1) return 0;
    if (p->inner_bytes < 1) return 0;
    if (p->count < 1) return 0;
    if (!p->index) return 0;
    if ((double)p->outer * p->length * p->inner_bytes > 2147483647.0) return 0;
    if ((double)p->outer * p->count * p->inner_bytes > 2147483647.0) return 0;
    return 1;
}

/* As for `kg_take`, the other way; no slice comes twice. */
typedef struct {
    int32_t header;       /* 0 .. 4 */
    int32_t outer;        /* 1 .. 2147483647 */
    int32_t length;       /* 1 .. 2147483647 */
    int32_t inner_bytes;  /* 1 .. 2147483647 */
    int32_t count;        /* 1 .. 2147483647 */
    const int16_t *index; /* 0 .. 32767 */
} kg_take_grad_params;

static inline int kg_take_grad_params_ok(const kg_take_grad_params *p) {
    if (p->header < 0 || p->header > 4) return 0;
    if (p->outer < 1) return 0;
    if (p->length < 1) return 0;
    if (p->inner_bytes < 1) return 0;
    if (p->count < 1) return 0;
    if (!p->index) return 0;
    if ((double)p->outer * p->length * p->inner_bytes > 2147483647.0) return 0;
    if ((double)p->outer * p->count * p->inner_bytes > 2147483647.0) return 0;
    if (p->count > p->length) return 0;
    return 1;
}

/* `outer` times, `bytes` of each of `count` inputs. */
typedef struct {
    int32_t outer;        /* 1 .. 2147483647 */
    int32_t count;        /* 1 .. 32767 */
    const int32_t *bytes; /* 1 .. 2147483647 */
} kg_concat_params;

static inline int kg_concat_params_ok(const kg_concat_params *p) {
    if (p->outer < 1) return 0;
    if (p->count < 1 || p->count > 32767) return 0;
    if (!p->bytes) return 0;
    return 1;
}

/* `fill` around a map: so many rows, pixels and channels in front of it. */
typedef struct {
    int32_t height;       /* 1 .. 32767 */
    int32_t width;        /* 1 .. 32767 */
    int32_t channels;     /* 1 .. 32767 */
    int32_t above;        /* 0 .. 32767 */
    int32_t left;         /* 0 .. 32767 */
    int32_t front;        /* 0 .. 32767 */
    int32_t out_height;   /* 1 .. 32767 */
    int32_t out_width;    /* 1 .. 32767 */
    int32_t out_channels; /* 1 .. 32767 */
    int32_t fill;         /* -128 .. 127 */
} kg_pad_map_params;

static inline int kg_pad_map_params_ok(const kg_pad_map_params *p) {
    if (p->height < 1 || p->height > 32767) return 0;
    if (p->width < 1 || p->width > 32767) return 0;
    if (p->channels < 1 || p->channels > 32767) return 0;
    if (p->above < 0 || p->above > 32767) return 0;
    if (p->left < 0 || p->left > 32767) return 0;
    if (p->front < 0 || p->front > 32767) return 0;
    if (p->out_height < 1 || p->out_height > 32767) return 0;
    if (p->out_width < 1 || p->out_width > 32767) return 0;
    if (p->out_channels < 1 || p->out_channels > 32767) return 0;
    if (p->fill < -128 || p->fill > 127) return 0;
    if ((double)p->out_height * p->out_width * p->out_channels > 2147483647.0) return 0;
    if (p->height > p->out_height) return 0;
    if (p->width > p->out_width) return 0;
    if (p->channels > p->out_channels) return 0;
    return 1;
}

/* A copy. */
typedef struct {
    int32_t bytes; /* 1 .. 2147483647 */
} kg_copy_params;

static inline int kg_copy_params_ok(const kg_copy_params *p) {
    if (p->bytes < 1) return 0;
    return 1;
}

/* Which slices of a weight tensor are found in `learned` instead: `index` increases along `axis`.
 * count = 0: none, `learned` is a null pointer. */
typedef struct {
    const int16_t *index; /* 0 .. 32767, or null */
    int32_t axis;         /* 0 .. 3 */
    int32_t count;        /* 0 .. 32767 */
} kg_overlay;

static inline int kg_overlay_ok(const kg_overlay *p) {
    if (p->axis < 0 || p->axis > 3) return 0;
    if (p->count < 0 || p->count > 32767) return 0;
    return 1;
}

/* What turns the sums of channel c into codes: times scale[c] * ratio, over 2^shift. scale[c] is
 * the scale of the weights, as a fraction. Brought to 31 bits, the factors leave shifts from lowest
 * to highest (kg_factor_of). */
typedef struct {
    const int32_t *scale; /* 1 .. 2147483647 */
    int32_t ratio;        /* 1073741824 .. 2147483647 */
    int32_t shift;        /* 1 .. 93 */
    int32_t lowest;       /* 1 .. 62 */
    int32_t highest;      /* 1 .. 62 */
} kg_scaling;

static inline int kg_scaling_ok(const kg_scaling *p) {
    if (!p->scale) return 0;
    if (p->ratio < 1073741824) return 0;
    if (p->shift < 1 || p->shift > 93) return 0;
    if (p->lowest < 1 || p->lowest > 62) return 0;
    if (p->highest < 1 || p->highest > 62) return 0;
    if (p->lowest > p->highest) return 0;
    if (p->highest > p->shift) return 0;
    return 1;
}

/* A convolution: int8 to int8. */
typedef struct {
    kg_window window;
    kg_overlay overlay;
    int32_t x_zero; /* -128 .. 127 */
    int32_t y_zero; /* -128 .. 127 */
    kg_scaling scaling;
} kg_conv_params;

static inline int kg_conv_params_ok(const kg_conv_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (!kg_overlay_ok(&p->overlay)) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    if (p->y_zero < -128 || p->y_zero > 127) return 0;
    if (!kg_scaling_ok(&p->scaling)) return 0;
    if ((double)p->window.out_c * p->window.kernel_h * p->window.kernel_w * p->window.in_c >
        2147483647.0)
        return 0;
    return 1;
}

/* Codes are clamped to lowest .. highest. shift: null where sums are rounded to the nearest. Where
 * they are rounded as TensorFlow Lite does, each channel has its own shift, and its multiplier in
 * place of a scale: kg_tflite_factor_of. */
typedef struct {
    int32_t lowest;      /* -128 .. 127 */
    int32_t highest;     /* -128 .. 127 */
    const int8_t *shift; /* 1 .. 62, or null */
} kg_limits;

static inline int kg_limits_ok(const kg_limits *p) {
    if (p->lowest < -128 || p->lowest > 127) return 0;
    if (p->highest < -128 || p->highest > 127) return 0;
    if (p->lowest > p->highest) return 0;
    return 1;
}

/* A convolution with limits, and perhaps another rounding. */
typedef struct {
    kg_conv_params layer;
    kg_limits limits;
} kg_conv_limited_params;

static inline int kg_conv_limited_params_ok(const kg_conv_limited_params *p) {
    if (!kg_conv_params_ok(&p->layer)) return 0;
    if (!kg_limits_ok(&p->limits)) return 0;
    return 1;
}

/* The gradient of x; `window` is of the forward convolution: "in" is dx, "out" is dy. */
typedef struct {
    kg_window window;
    kg_overlay overlay;
    int32_t bits; /* 4 .. 15 */
} kg_conv_input_grad_params;

static inline int kg_conv_input_grad_params_ok(const kg_conv_input_grad_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (!kg_overlay_ok(&p->overlay)) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    if ((double)p->window.out_c * p->window.kernel_h * p->window.kernel_w * p->window.in_c >
        2147483647.0)
        return 0;
    return 1;
}

/* The gradient of w. */
typedef struct {
    kg_window window;
    int32_t x_zero; /* -128 .. 127 */
} kg_conv_weight_grad_params;

static inline int kg_conv_weight_grad_params_ok(const kg_conv_weight_grad_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    if (4.0 * p->window.out_c * p->window.kernel_h * p->window.kernel_w * p->window.in_c >
        2147483647.0)
        return 0;
    return 1;
}

/* A depthwise convolution: int8 to int8. */
typedef struct {
    kg_window window;
    kg_overlay overlay;
    int32_t x_zero; /* -128 .. 127 */
    int32_t y_zero; /* -128 .. 127 */
    kg_scaling scaling;
} kg_depthwise_params;

static inline int kg_depthwise_params_ok(const kg_depthwise_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (!kg_overlay_ok(&p->overlay)) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    if (p->y_zero < -128 || p->y_zero > 127) return 0;
    if (!kg_scaling_ok(&p->scaling)) return 0;
    return 1;
}

/* A depthwise convolution with limits, and perhaps another rounding. */
typedef struct {
    kg_depthwise_params layer;
    kg_limits limits;
} kg_depthwise_limited_params;

static inline int kg_depthwise_limited_params_ok(const kg_depthwise_limited_params *p) {
    if (!kg_depthwise_params_ok(&p->layer)) return 0;
    if (!kg_limits_ok(&p->limits)) return 0;
    return 1;
}

/* The gradient of x; `window` is of the forward convolution: "in" is dx, "out" is dy. */
typedef struct {
    kg_window window;
    kg_overlay overlay;
    int32_t bits; /* 4 .. 15 */
} kg_depthwise_input_grad_params;

static inline int kg_depthwise_input_grad_params_ok(const kg_depthwise_input_grad_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (!kg_overlay_ok(&p->overlay)) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    return 1;
}

/* The gradient of w. */
typedef struct {
    kg_window window;
    int32_t x_zero; /* -128 .. 127 */
} kg_depthwise_weight_grad_params;

static inline int kg_depthwise_weight_grad_params_ok(const kg_depthwise_weight_grad_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    return 1;
}

/* `size` codes to real numbers. */
typedef struct {
    int32_t size; /* 1 .. 32767 */
    int32_t zero; /* -128 .. 127 */
    float scale;  /* 2^-40 .. 65536 */
} kg_dequantise_params;

static inline int kg_dequantise_params_ok(const kg_dequantise_params *p) {
    if (p->size < 1 || p->size > 32767) return 0;
    if (p->zero < -128 || p->zero > 127) return 0;
    if (!(p->scale >= 9.094947017729282e-13f && p->scale <= 65536.0f)) return 0;
    return 1;
}

/* `size` real numbers to mantissas of at most `bits` bits. */
typedef struct {
    int32_t size; /* 1 .. 32767 */
    int32_t bits; /* 4 .. 15 */
} kg_to_block_params;

static inline int kg_to_block_params_ok(const kg_to_block_params *p) {
    if (p->size < 1 || p->size > 32767) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    return 1;
}

/* A linear layer from `features` to `classes`. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
} kg_dense_params;

static inline int kg_dense_params_ok(const kg_dense_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* The gradient of the features. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
} kg_dense_input_grad_params;

static inline int kg_dense_input_grad_params_ok(const kg_dense_input_grad_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* The gradient of the weights. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
} kg_dense_weight_grad_params;

static inline int kg_dense_weight_grad_params_ok(const kg_dense_weight_grad_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* Cosines to a prototype for each of `classes`, times `scale`. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
    float scale;      /* 2^-10 .. 1024 */
} kg_cosine_params;

static inline int kg_cosine_params_ok(const kg_cosine_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (!(p->scale >= 0.0009765625f && p->scale <= 1024.0f)) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* The gradient of the features. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
    float scale;      /* 2^-10 .. 1024 */
} kg_cosine_input_grad_params;

static inline int kg_cosine_input_grad_params_ok(const kg_cosine_input_grad_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (!(p->scale >= 0.0009765625f && p->scale <= 1024.0f)) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* The gradient of the prototypes. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
    float scale;      /* 2^-10 .. 1024 */
} kg_cosine_prototype_grad_params;

static inline int kg_cosine_prototype_grad_params_ok(const kg_cosine_prototype_grad_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (!(p->scale >= 0.0009765625f && p->scale <= 1024.0f)) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* A label is 0 .. classes - 1. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
} kg_enrol_params;

static inline int kg_enrol_params_ok(const kg_enrol_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* A label is 0 .. classes - 1. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
} kg_lookup_params;

static inline int kg_lookup_params_ok(const kg_lookup_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* A map and its gradient; zero point and scale are of the map. */
typedef struct {
    int32_t pixels;   /* 1 .. 2147483647 */
    int32_t channels; /* 1 .. 2147483647 */
    int32_t zero;     /* -128 .. 127 */
    float scale;      /* 2^-40 .. 65536 */
} kg_fisher_sum_params;

static inline int kg_fisher_sum_params_ok(const kg_fisher_sum_params *p) {
    if (p->pixels < 1) return 0;
    if (p->channels < 1) return 0;
    if (p->zero < -128 || p->zero > 127) return 0;
    if (!(p->scale >= 9.094947017729282e-13f && p->scale <= 65536.0f)) return 0;
    if ((double)p->pixels * p->channels > 2147483647.0) return 0;
    return 1;
}

/* A convolution in groups: `conv` is of one group, but for its scaling, which is of all. */
typedef struct {
    kg_conv_params conv;
    kg_overlay overlay;
    int16_t groups; /* 1 .. 32767 */
} kg_grouped_conv_params;

static inline int kg_grouped_conv_params_ok(const kg_grouped_conv_params *p) {
    if (!kg_conv_params_ok(&p->conv)) return 0;
    if (!kg_overlay_ok(&p->overlay)) return 0;
    if (p->groups < 1) return 0;
    if ((double)p->groups * p->conv.window.in_h * p->conv.window.in_w * p->conv.window.in_c >
        2147483647.0)
        return 0;
    if ((double)p->groups * p->conv.window.out_h * p->conv.window.out_w * p->conv.window.out_c >
        2147483647.0)
        return 0;
    return 1;
}

/* A convolution in groups with limits, and perhaps another rounding. */
typedef struct {
    kg_grouped_conv_params layer;
    kg_limits limits;
} kg_grouped_conv_limited_params;

static inline int kg_grouped_conv_limited_params_ok(const kg_grouped_conv_limited_params *p) {
    if (!kg_grouped_conv_params_ok(&p->layer)) return 0;
    if (!kg_limits_ok(&p->limits)) return 0;
    return 1;
}

/* The gradient of x: `conv` is of one group. */
typedef struct {
    kg_conv_input_grad_params conv;
    kg_overlay overlay;
    int16_t groups; /* 1 .. 32767 */
} kg_grouped_input_grad_params;

static inline int kg_grouped_input_grad_params_ok(const kg_grouped_input_grad_params *p) {
    if (!kg_conv_input_grad_params_ok(&p->conv)) return 0;
    if (!kg_overlay_ok(&p->overlay)) return 0;
    if (p->groups < 1) return 0;
    if ((double)p->groups * p->conv.window.in_h * p->conv.window.in_w * p->conv.window.in_c >
        2147483647.0)
        return 0;
    if ((double)p->groups * p->conv.window.out_h * p->conv.window.out_w * p->conv.window.out_c >
        2147483647.0)
        return 0;
    return 1;
}

/* Filters of groups: `conv` is of one. Filter o reads from channel reads[o] on. */
typedef struct {
    kg_conv_weight_grad_params conv;
    int16_t in_c;         /* 1 .. 32767 */
    int16_t out_c;        /* 1 .. 32767 */
    const int16_t *reads; /* 0 .. 32767 */
} kg_grouped_weight;

static inline int kg_grouped_weight_ok(const kg_grouped_weight *p) {
    if (!kg_conv_weight_grad_params_ok(&p->conv)) return 0;
    if (p->in_c < 1) return 0;
    if (p->out_c < 1) return 0;
    if (!p->reads) return 0;
    if ((double)p->in_c * p->conv.window.in_h * p->conv.window.in_w > 2147483647.0) return 0;
    if ((double)p->out_c * p->conv.window.out_h * p->conv.window.out_w > 2147483647.0) return 0;
    if (4.0 * p->out_c * p->conv.window.kernel_h * p->conv.window.kernel_w * p->conv.window.in_c >
        2147483647.0)
        return 0;
    if (p->conv.window.in_c > p->in_c) return 0;
    return 1;
}

/* The gradient of w. */
typedef struct {
    kg_grouped_weight grad;
} kg_grouped_weight_grad_params;

static inline int kg_grouped_weight_grad_params_ok(const kg_grouped_weight_grad_params *p) {
    if (!kg_grouped_weight_ok(&p->grad)) return 0;
    return 1;
}

/* A label is 0 .. classes - 1. */
typedef struct {
    int32_t classes; /* 1 .. 2147483647 */
} kg_cross_entropy_params;

static inline int kg_cross_entropy_params_ok(const kg_cross_entropy_params *p) {
    if (p->classes < 1) return 0;
    return 1;
}

/* As for `kg_cross_entropy`. */
typedef struct {
    int32_t classes; /* 1 .. 2147483647 */
} kg_cross_entropy_grad_params;

static inline int kg_cross_entropy_grad_params_ok(const kg_cross_entropy_grad_params *p) {
    if (p->classes < 1) return 0;
    return 1;
}

/* The largest code of each place of a kernel. */
typedef struct {
    kg_window window;
} kg_max_pool_params;

static inline int kg_max_pool_params_ok(const kg_max_pool_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    return 1;
}

/* As for `kg_max_pool`: where it is, in so many bytes each. */
typedef struct {
    kg_window window;
    int32_t bytes; /* 1 .. 2 */
} kg_arg_max_params;

static inline int kg_arg_max_params_ok(const kg_arg_max_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (p->bytes < 1 || p->bytes > 2) return 0;
    return 1;
}

/* The gradient of x; `window` is of the forward pass: "in" is dx, "out" is dy. */
typedef struct {
    kg_window window;
    int32_t bytes; /* 1 .. 2 */
    int32_t bits;  /* 4 .. 15 */
} kg_max_pool_grad_params;

static inline int kg_max_pool_grad_params_ok(const kg_max_pool_grad_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (p->bytes < 1 || p->bytes > 2) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    return 1;
}

/* A map times a factor, whose element for pixel i and channel c lies at `i * pixel_step + c *
 * channel_step`: multiplier over 2^shift brings the product of codes to the scale of the result.
 * tflite: round twice, as TensorFlow Lite does. */
typedef struct {
    int32_t pixels;       /* 1 .. 2147483647 */
    int32_t channels;     /* 1 .. 2147483647 */
    int32_t pixel_step;   /* 0 .. 2147483647 */
    int32_t channel_step; /* 0 .. 1 */
    int32_t x_zero;       /* -128 .. 127 */
    int32_t factor_zero;  /* -128 .. 127 */
    int32_t y_zero;       /* -128 .. 127 */
    int32_t least;        /* -128 .. 127 */
    int32_t most;         /* -128 .. 127 */
    int32_t multiplier;   /* 0 .. 2147483647 */
    int32_t shift;        /* 1 .. 62 */
    int32_t tflite;       /* 0 .. 1 */
} kg_product_params;

static inline int kg_product_params_ok(const kg_product_params *p) {
    if (p->pixels < 1) return 0;
    if (p->channels < 1) return 0;
    if (p->pixel_step < 0) return 0;
    if (p->channel_step < 0 || p->channel_step > 1) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    if (p->factor_zero < -128 || p->factor_zero > 127) return 0;
    if (p->y_zero < -128 || p->y_zero > 127) return 0;
    if (p->least < -128 || p->least > 127) return 0;
    if (p->most < -128 || p->most > 127) return 0;
    if (p->multiplier < 0) return 0;
    if (p->shift < 1 || p->shift > 62) return 0;
    if (p->tflite < 0 || p->tflite > 1) return 0;
    if ((double)p->pixels * p->channels > 2147483647.0) return 0;
    if (p->pixel_step > p->channels) return 0;
    if (p->least > p->most) return 0;
    return 1;
}

/* A gradient times the codes of a factor, which lie as in `kg_product`. */
typedef struct {
    int32_t pixels;       /* 1 .. 2147483647 */
    int32_t channels;     /* 1 .. 2147483647 */
    int32_t pixel_step;   /* 0 .. 2147483647 */
    int32_t channel_step; /* 0 .. 1 */
    int32_t factor_zero;  /* -128 .. 127 */
    int32_t bits;         /* 4 .. 15 */
} kg_product_grad_params;

static inline int kg_product_grad_params_ok(const kg_product_grad_params *p) {
    if (p->pixels < 1) return 0;
    if (p->channels < 1) return 0;
    if (p->pixel_step < 0) return 0;
    if (p->channel_step < 0 || p->channel_step > 1) return 0;
    if (p->factor_zero < -128 || p->factor_zero > 127) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    if ((double)p->pixels * p->channels > 2147483647.0) return 0;
    if (p->pixel_step > p->channels) return 0;
    return 1;
}

/* `results` sums of `terms` products each, that begin `result_step` elements apart and go on in
 * steps of `term_step`. */
typedef struct {
    int32_t results;     /* 1 .. 2147483647 */
    int32_t terms;       /* 1 .. 2147483647 */
    int32_t result_step; /* 1 .. 2147483647 */
    int32_t term_step;   /* 1 .. 2147483647 */
    int32_t x_zero;      /* -128 .. 127 */
    int32_t bits;        /* 4 .. 15 */
} kg_product_sum_grad_params;

static inline int kg_product_sum_grad_params_ok(const kg_product_sum_grad_params *p) {
    if (p->results < 1) return 0;
    if (p->terms < 1) return 0;
    if (p->result_step < 1) return 0;
    if (p->term_step < 1) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    if ((double)p->results * p->terms > 2147483647.0) return 0;
    if ((double)p->results * p->result_step > 2147483647.0) return 0;
    if ((double)p->terms * p->term_step > 2147483647.0) return 0;
    return 1;
}

/* How a parameter is cut into rows and how a row steps. Element j of row r is number r * row_stride
 * + j * element_stride of the parameter, and r * length + j of each state. scale: of each row,
 * codes / scale codes for a step of a real unit; null: reals are stored. state_bytes: of a code of
 * a state; 4: states are floats. together: rows of codes with one exponent: 1, or all of them,
 * which then lie one behind the other. */
typedef struct {
    int32_t rule;           /* 0 .. 4 */
    int32_t element_bytes;  /* 1 .. 4 */
    int32_t is_float;       /* 0 .. 1 */
    int32_t rows;           /* 1 .. 2147483647 */
    int32_t length;         /* 1 .. 2147483647 */
    int32_t row_stride;     /* 1 .. 2147483647 */
    int32_t element_stride; /* 1 .. 2147483647 */
    uint32_t salt;          /* 0 .. 2^32 - 1 */
    const int32_t *scale;   /* 1 .. 2147483647, or null */
    float codes;            /* 2^-50 .. 2^111 */
    float gradient_scale;   /* 0 .. 65536 */
    float beta1;            /* 0 .. 1 - 2^-24 */
    float beta2;            /* 0 .. 1 - 2^-24 */
    float epsilon;          /* 0 .. 1 */
    int32_t state_bytes;    /* 1 .. 4 */
    int32_t together;       /* 1 .. 2147483647 */
} kg_update;

static inline int kg_update_ok(const kg_update *p) {
    if (p->rule < 0 || p->rule > 4) return 0;
    if (p->element_bytes < 1 || p->element_bytes > 4) return 0;
    if (p->is_float < 0 || p->is_float > 1) return 0;
    if (p->rows < 1) return 0;
    if (p->length < 1) return 0;
    if (p->row_stride < 1) return 0;
    if (p->element_stride < 1) return 0;
    if (!(p->codes >= 8.881784197001252e-16f && p->codes <= 2.596148429267414e+33f)) return 0;
    if (!(p->gradient_scale >= 0.0f && p->gradient_scale <= 65536.0f)) return 0;
    if (!(p->beta1 >= 0.0f && p->beta1 <= 0.9999999403953552f)) return 0;
    if (!(p->beta2 >= 0.0f && p->beta2 <= 0.9999999403953552f)) return 0;
    if (!(p->epsilon >= 0.0f && p->epsilon <= 1.0f)) return 0;
    if (p->state_bytes < 1 || p->state_bytes > 4) return 0;
    if (p->together < 1) return 0;
    if (4.0 * p->rows * p->length > 2147483647.0) return 0;
    if (p->together > p->rows) return 0;
    return 1;
}

/* An update along int32 sums with a shared exponent. */
typedef struct {
    kg_update update;
} kg_update_block_params;

static inline int kg_update_block_params_ok(const kg_update_block_params *p) {
    if (!kg_update_ok(&p->update)) return 0;
    return 1;
}

/* An update along a gradient in float32. */
typedef struct {
    kg_update update;
} kg_update_float_params;

static inline int kg_update_float_params_ok(const kg_update_float_params *p) {
    if (!kg_update_ok(&p->update)) return 0;
    return 1;
}

/* An update along a sum that is kept in codes of so many bytes, with so many exponents: one, or one
 * for each row. */
typedef struct {
    kg_update update;
    int32_t gradient_bytes; /* 1 .. 2 */
    int32_t gradient_rows;  /* 1 .. 2147483647 */
} kg_update_codes_params;

static inline int kg_update_codes_params_ok(const kg_update_codes_params *p) {
    if (!kg_update_ok(&p->update)) return 0;
    if (p->gradient_bytes < 1 || p->gradient_bytes > 2) return 0;
    if (p->gradient_rows < 1) return 0;
    return 1;
}

/* Zeros. */
typedef struct {
    int32_t bytes; /* 1 .. 2147483647 */
} kg_clear_params;

static inline int kg_clear_params_ok(const kg_clear_params *p) {
    if (p->bytes < 1) return 0;
    return 1;
}

/* The gradient of the weights of a convolution, and their update. */
typedef struct {
    kg_window window;
    int32_t x_zero; /* -128 .. 127 */
    kg_update update;
} kg_conv_weight_update_params;

static inline int kg_conv_weight_update_params_ok(const kg_conv_weight_update_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    if (!kg_update_ok(&p->update)) return 0;
    return 1;
}

/* As for `kg_conv_weight_update`. */
typedef struct {
    kg_window window;
    int32_t x_zero; /* -128 .. 127 */
    kg_update update;
} kg_depthwise_weight_update_params;

static inline int kg_depthwise_weight_update_params_ok(const kg_depthwise_weight_update_params *p) {
    if (!kg_window_ok(&p->window)) return 0;
    if (p->x_zero < -128 || p->x_zero > 127) return 0;
    if (!kg_update_ok(&p->update)) return 0;
    return 1;
}

/* The gradient of the weights of a convolution in groups, and their update. */
typedef struct {
    kg_grouped_weight grad;
    kg_update update;
} kg_grouped_weight_update_params;

static inline int kg_grouped_weight_update_params_ok(const kg_grouped_weight_update_params *p) {
    if (!kg_grouped_weight_ok(&p->grad)) return 0;
    if (!kg_update_ok(&p->update)) return 0;
    return 1;
}

/* The gradient of the weights of a linear layer, and their update. */
typedef struct {
    int32_t features; /* 1 .. 32767 */
    int32_t classes;  /* 1 .. 2147483647 */
    kg_update update;
} kg_dense_weight_update_params;

static inline int kg_dense_weight_update_params_ok(const kg_dense_weight_update_params *p) {
    if (p->features < 1 || p->features > 32767) return 0;
    if (p->classes < 1) return 0;
    if (!kg_update_ok(&p->update)) return 0;
    if (4.0 * p->features * p->classes > 2147483647.0) return 0;
    return 1;
}

/* A layer of a stream: what it computes a whole map with (`params`: kg_conv_params,
 * kg_depthwise_params or kg_add_params, or kg_conv_limited_params and so on; null for the rows of
 * an image), and the buffer that keeps its newest rows, at `offset` of the scratch memory. source:
 * stages whose rows it reads; -1: the input. */
typedef struct {
    const void *params;
    const int8_t *w;
    const int32_t *b;
    int32_t row_bytes; /* 1 .. 2147483647 */
    int32_t offset;    /* 0 .. 2147483647 */
    int16_t kind;      /* 0 .. 9 */
    int16_t source[2]; /* -1 .. 32766 */
    int16_t height;    /* 1 .. 32767 */
    int16_t rows;      /* 0 .. 32767 */
} kg_stage;

static inline int kg_stage_ok(const kg_stage *p) {
    if (p->row_bytes < 1) return 0;
    if (p->offset < 0) return 0;
    if (p->kind < 0 || p->kind > 9) return 0;
    if (p->source[0] < -1 || p->source[0] > 32766) return 0;
    if (p->source[1] < -1 || p->source[1] > 32766) return 0;
    if (p->height < 1) return 0;
    if (p->rows < 0) return 0;
    if ((double)p->height * p->row_bytes > 2147483647.0) return 0;
    return 1;
}

/* Layers, the last of which writes the result, and their input. */
typedef struct {
    const kg_stage *stages;
    int32_t count;       /* 1 .. 32767 */
    int32_t row_bytes;   /* 1 .. 2147483647 */
    int32_t height;      /* 1 .. 32767 */
    int32_t work_offset; /* 0 .. 2147483647 */
} kg_stream_params;

static inline int kg_stream_params_ok(const kg_stream_params *p) {
    if (p->count < 1 || p->count > 32767) return 0;
    if (p->row_bytes < 1) return 0;
    if (p->height < 1 || p->height > 32767) return 0;
    if (p->work_offset < 0) return 0;
    if ((double)p->height * p->row_bytes > 2147483647.0) return 0;
    return 1;
}

/* What each of 256 codes becomes, that of -128 first. */
typedef struct {
    int32_t size;        /* 1 .. 2147483647 */
    const int8_t *codes; /* -128 .. 127 */
} kg_table_params;

static inline int kg_table_params_ok(const kg_table_params *p) {
    if (p->size < 1) return 0;
    if (!p->codes) return 0;
    return 1;
}

/* The slope at each of 256 codes, that of -128 first: a 31-bit fraction with a sign; exponent: of
 * all of them. */
typedef struct {
    int32_t size;          /* 1 .. 2147483647 */
    const int32_t *slopes; /* -2147483647 .. 2147483647 */
    int32_t exponent;      /* -200 .. 200 */
    int32_t bits;          /* 4 .. 15 */
} kg_table_grad_params;

static inline int kg_table_grad_params_ok(const kg_table_grad_params *p) {
    if (p->size < 1) return 0;
    if (!p->slopes) return 0;
    if (p->exponent < -200 || p->exponent > 200) return 0;
    if (p->bits < 4 || p->bits > 15) return 0;
    return 1;
}

#endif
