/* Convolution in groups and its gradients: what a group reads and writes is brought together, and
 * the kernels of kg_conv.c and kg_conv_weight.c do the rest. */
#include "kg_kernels.h"

#include <string.h>

static int32_t words(int32_t bytes) { return (bytes + 3) & ~3; }

/* `bytes` of each of some pixels, which lie so many bytes apart. */
static void copy(void *to, int32_t to_step, const void *from, int32_t from_step, int32_t bytes,
                 int32_t pixels) {
    char *t = to;
    const char *f = from;
    for (int32_t i = 0; i < pixels; i++, t += to_step, f += from_step) memcpy(t, f, (size_t)bytes);
}

/* Filters first .. first + count, the learned ones among them. */
static void filters(int8_t *to, const int8_t *w, const int8_t *learned, const kg_overlay *overlay,
                    int32_t first, int32_t count, int32_t length) {
    memcpy(to, w + first * length, (size_t)(count * length));
    for (int32_t o = 0; overlay->count && o < count; o++) {
        const int32_t slot = kg_overlay_find(overlay, first + o);
        if (slot >= 0) memcpy(to + o * length, learned + slot * length, (size_t)length);
    }
}

/* limits: null where there are none. */
KG_INLINE void convolve(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                        const int32_t *b, int8_t *scratch, const kg_grouped_conv_params *p,
                        const kg_limits *limits) {
    const kg_window *g = &p->conv.window;
    const int32_t in = g->in_c, out = g->out_c, length = g->kernel_h * g->kernel_w * in;
    const int32_t row = g->in_w * in, in_all = in * p->groups, out_all = out * p->groups;
    int8_t *one = scratch, *rows = one + words(out * length);
    int8_t *made = rows + words(g->kernel_h * row), *rest = made + words(g->out_w * out);
    kg_conv_limited_params limited = {p->conv, limits ? *limits : (kg_limits){0}};
    kg_conv_params *part = &limited.layer;
    part->window.out_h = 1;
    for (int32_t k = 0; k < p->groups; k++, part->scaling.scale += out) {
        filters(one, w, learned, &p->overlay, k * out, out, length);
        for (int32_t oy = 0; oy < g->out_h; oy++) {
            const int32_t iy = oy * g->stride_h - g->pad_top, begin = kg_tap_begin(iy);
            const int32_t n = kg_max(kg_tap_end(iy, g->kernel_h, g->in_h) - begin, 0);
            copy(rows, in, x + (iy + begin) * g->in_w * in_all + k * in, in_all, in, n * g->in_w);
            part->window.in_h = (int16_t)n;
            part->window.pad_top = (int16_t)begin;
            if (limits)
                kg_conv_limited(made, rows, one, 0, b + k * out, rest, &limited);
            else
                kg_conv(made, rows, one, 0, b + k * out, rest, part);
            copy(y + oy * g->out_w * out_all + k * out, out_all, made, out, out, g->out_w);
        }
        if (limited.limits.shift) limited.limits.shift += out;
    }
}

void kg_grouped_conv(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                     const int32_t *b, int8_t *scratch, const kg_grouped_conv_params *p) {
    KG_ASSERT(kg_grouped_conv_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->overlay));
    convolve(y, x, w, learned, b, scratch, p, 0);
}

void kg_grouped_conv_limited(int8_t *y, const int8_t *x, const int8_t *w, const int8_t *learned,
                             const int32_t *b, int8_t *scratch,
                             const kg_grouped_conv_limited_params *p) {
    KG_ASSERT(kg_grouped_conv_limited_params_ok(p));
    KG_ASSERT(kg_has_conv(y, x, w, learned, b, scratch, &p->layer.overlay));
    convolve(y, x, w, learned, b, scratch, &p->layer, &p->limits);
}

/* m / 2^shift, as little as is left of it. */
static int16_t shifted(int16_t m, int32_t shift) {
    return (int16_t)kg_round_to_odd(m, kg_min(shift, 31));
}

/* Puts the gradient of n channels, from c on, beside what is there of those before: the smaller
 * exponent gives way, which is what rounding all of them at once would make. */
static void join(kg_block16 *to, const kg_block16 *part, int32_t c, int32_t n, int32_t channels,
                 int32_t pixels) {
    const int32_t old = kg_max(part->exponent - to->exponent, 0);
    const int32_t new = kg_max(to->exponent - part->exponent, 0);
    to->exponent += old;
    for (int32_t i = 0; i < pixels; i++) {
        int16_t *m = to->mantissa + i * channels;
        for (int32_t k = 0; old && k < c; k++) m[k] = shifted(m[k], old);
        for (int32_t k = 0; k < n; k++) m[c + k] = shifted(part->mantissa[i * n + k], new);
    }
}

void kg_grouped_input_grad(kg_block16 *dx, const kg_block16 *dy, const int8_t *w,
                           const int8_t *learned, int8_t *scratch,
                           const kg_grouped_input_grad_params *p) {
    KG_ASSERT(kg_grouped_input_grad_params_ok(p));
    KG_ASSERT(kg_has_input_grad(dx, dy, w, learned, scratch, &p->overlay));
    const kg_window *g = &p->conv.window;
    const int32_t in = g->in_c, out = g->out_c, length = g->kernel_h * g->kernel_w * in;
    const int32_t pixels = g->in_h * g->in_w, out_pixels = g->out_h * g->out_w;
    int8_t *one = scratch, *made = one + words(out * length);
    int8_t *given = made + words(4 + 2 * pixels * in);
    int8_t *rest = given + words(4 + 2 * out_pixels * out);
    kg_block16 *from = (kg_block16 *)(void *)given, *part = (kg_block16 *)(void *)made;
    dx->exponent = KG_ZERO_EXPONENT;
    for (int32_t k = 0; k < p->groups; k++) {
        filters(one, w, learned, &p->overlay, k * out, out, length);
        from->exponent = dy->exponent;
        copy(from->mantissa, 2 * out, dy->mantissa + k * out, 2 * out * p->groups, 2 * out,
             out_pixels);
        kg_conv_input_grad(part, from, one, 0, rest, &p->conv);
        join(dx, part, k * in, in, in * p->groups, pixels);
    }
}

/* What the gradient of one filter is computed in. */
typedef struct {
    int8_t *x;        /* the channels that it reads */
    kg_block16 *dy;   /* its gradient */
    kg_block32 *sums; /* of its weights */
    int32_t first;    /* of these channels, -1: none are there yet */
} room;

static room make_room(int8_t *scratch, const kg_window *g) {
    int8_t *dy = scratch + words(g->in_h * g->in_w * g->in_c);
    int8_t *sums = dy + words(4 + 2 * g->out_h * g->out_w);
    return (room){scratch, (kg_block16 *)(void *)dy, (kg_block32 *)(void *)sums, -1};
}

static void filter_grad(room *r, int32_t o, const int8_t *x, const kg_block16 *dy,
                        const kg_grouped_weight *p) {
    const kg_window *g = &p->conv.window;
    if (r->first != p->reads[o]) {
        r->first = p->reads[o];
        copy(r->x, g->in_c, x + r->first, p->in_c, g->in_c, g->in_h * g->in_w);
    }
    r->dy->exponent = dy->exponent;
    copy(r->dy->mantissa, 2, dy->mantissa + o, 2 * p->out_c, 2, g->out_h * g->out_w);
    kg_conv_weight_grad(r->sums, r->x, r->dy, &p->conv);
}

void kg_grouped_weight_grad(kg_block32 *dw, const int8_t *x, const kg_block16 *dy, int8_t *scratch,
                            const kg_grouped_weight_grad_params *p) {
    KG_ASSERT(kg_grouped_weight_grad_params_ok(p));
    KG_ASSERT(kg_aligned(dw) && kg_aligned(dy) && kg_aligned(scratch) && x);
    const kg_window *g = &p->grad.conv.window;
    const int32_t length = g->kernel_h * g->kernel_w * g->in_c;
    room r = make_room(scratch, g);
    dw->exponent = dy->exponent;
    for (int32_t o = 0; o < p->grad.out_c; o++) {
        filter_grad(&r, o, x, dy, &p->grad);
        memcpy(dw->mantissa + o * length, r.sums->mantissa, (size_t)length * sizeof(int32_t));
    }
}

void kg_grouped_weight_update(void *w, const int8_t *x, const kg_block16 *dy, void *s0, void *s1,
                              const float *lr, const int32_t *clock, void *scratch,
                              const kg_grouped_weight_update_params *p) {
    KG_ASSERT(kg_grouped_weight_update_params_ok(p));
    KG_ASSERT(kg_aligned(dy) && kg_aligned(lr) && kg_aligned(scratch) && w && x);
    room r = make_room(scratch, &p->grad.conv.window);
    for (int32_t o = 0; o < p->grad.out_c; o++) {
        filter_grad(&r, o, x, dy, &p->grad);
        kg_update_row_i32(w, o, r.sums->mantissa, dy->exponent, s0, s1, lr, clock, &p->update);
    }
}
