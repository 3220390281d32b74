/* Chains of layers, a row at a time and on demand.
 *
 * A row is computed by the layer's own kernel, which is told of a map that is one row high.  Each
 * stage keeps a few rows in a buffer; when it is full, the rows that no reader needs any more
 * make room for the next one.  ops/stream.py runs the same schedule to find out how many. */
#include "kg_kernels.h"

#include <string.h>

typedef struct {
    int16_t first, done; /* rows first .. done are in the buffer */
} progress;

typedef struct {
    const kg_stream_params *p;
    const int8_t *x;
    const kg_rows *rows;
    int8_t *y;
    uint8_t *scratch;
    progress *at; /* per stage */
    /* one row of a layer with limits, or null: so that nothing else links the kernels of those */
    void (*limited)(int8_t *y, const int8_t *a, const int8_t *c, int8_t *scratch,
                    const kg_stage *stage, const kg_window *g);
} stream;

/* The window is what records of convolutions and pools begin with. */
static const kg_window *window_of(const kg_stage *s) {
    return s->kind & KG_STAGE_ADD ? 0 : (const kg_window *)s->params;
}

/* The rows begin .. end of its sources that a stage reads for one row of its own. */
static int32_t begin_of(const kg_stage *s, int32_t row) {
    const kg_window *g = window_of(s);
    return g ? kg_max(0, row * g->stride_h - g->pad_top) : row;
}

static int32_t end_of(const kg_stage *s, int32_t row) {
    const kg_window *g = window_of(s);
    return g ? kg_min(g->in_h, row * g->stride_h - g->pad_top + g->kernel_h) : row + 1;
}

/* A source of stage i that must go on before i can, or -1. */
static int32_t lacking(const stream *s, int32_t i) {
    const kg_stage *stage = s->p->stages + i;
    const int32_t end = end_of(stage, s->at[i].done);
    for (int32_t k = 0; k < 2; k++) {
        const int32_t source = stage->source[k];
        if (source >= 0 && s->at[source].done < end) return source;
    }
    return -1;
}

static const int8_t *rows_of(const stream *s, int32_t source, int32_t begin) {
    if (source < 0) return s->x + begin * s->p->row_bytes;
    const kg_stage *stage = s->p->stages + source;
    return (const int8_t *)s->scratch + stage->offset +
           (begin - s->at[source].first) * stage->row_bytes;
}

/* Where the next row of stage i goes. */
static int8_t *next_row(stream *s, int32_t i) {
    const kg_stage *stage = s->p->stages + i;
    progress *at = s->at + i;
    if (i == s->p->count - 1) return s->y + at->done * stage->row_bytes;
    int8_t *buffer = (int8_t *)s->scratch + stage->offset;
    if (at->done - at->first == stage->rows) {
        int32_t wanted = at->done;
        for (int32_t j = i + 1; j < s->p->count; j++) {
            const kg_stage *reader = s->p->stages + j;
            if ((reader->source[0] == i || reader->source[1] == i) &&
                s->at[j].done < reader->height)
                wanted = kg_min(wanted, begin_of(reader, s->at[j].done));
        }
        memmove(buffer, buffer + (wanted - at->first) * stage->row_bytes,
                (size_t)((at->done - wanted) * stage->row_bytes));
        at->first = (int16_t)wanted;
    }
    return buffer + (at->done - at->first) * stage->row_bytes;
}

/* The window of one output row over the rows begin .. end. */
static kg_window row_window(const kg_window *g, int32_t row, int32_t begin, int32_t end) {
    kg_window w = *g;
    w.pad_top = (int16_t)(begin - (row * g->stride_h - g->pad_top));
    w.in_h = (int16_t)kg_max(0, end - begin); /* none: nothing but padding */
    w.out_h = 1;
    return w;
}

KG_INLINE void compute(stream *s, int32_t i) {
    const kg_stage *stage = s->p->stages + i;
    if (stage->kind == KG_STAGE_ROWS) {
        int8_t *to = next_row(s, i);
        s->rows->read(s->rows->context, s->at[i].done++, to);
        return;
    }
    const int32_t row = s->at[i].done, begin = begin_of(stage, row), end = end_of(stage, row);
    int8_t *y = next_row(s, i), *work = (int8_t *)s->scratch + s->p->work_offset;
    const int8_t *x = rows_of(s, stage->source[0], begin);
    if (stage->kind == KG_STAGE_CONV) {
        kg_conv_params p = *(const kg_conv_params *)stage->params;
        p.window = row_window(&p.window, row, begin, end);
        kg_conv(y, x, stage->w, 0, stage->b, work, &p);
    } else if (stage->kind == KG_STAGE_DEPTHWISE) {
        kg_depthwise_params p = *(const kg_depthwise_params *)stage->params;
        p.window = row_window(&p.window, row, begin, end);
        kg_depthwise(y, x, stage->w, 0, stage->b, work, &p);
    } else if (stage->kind == KG_STAGE_ADD) {
        kg_add(y, x, rows_of(s, stage->source[1], begin), stage->params);
    } else {
        const kg_window *g = window_of(stage);
        const kg_window w = g ? row_window(g, row, begin, end) : (kg_window){0};
        s->limited(y, x, rows_of(s, stage->source[1], begin), work, stage, &w);
    }
    s->at[i].done++;
}

void kg_image_row(void *image, int32_t row, int8_t *to) {
    const kg_image *from = image;
    memcpy(to, from->pixels + row * from->row_bytes, (size_t)from->row_bytes);
}

KG_INLINE void run(stream *s) {
    memset(s->at, 0, (size_t)s->p->count * sizeof *s->at);
    const int32_t last = s->p->count - 1;
    while (s->at[last].done < s->p->stages[last].height) {
        int32_t i = last, source;
        while ((source = lacking(s, i)) >= 0) i = source;
        compute(s, i);
    }
}

void kg_stream(int8_t *y, const int8_t *x, const kg_rows *rows, uint8_t *scratch,
               const kg_stream_params *p) {
    KG_ASSERT(kg_stream_params_ok(p));
    KG_ASSERT(kg_aligned(scratch) && y);
    run(&(stream){p, x, rows, y, scratch, (progress *)(void *)scratch, 0});
}

static void limited_row(int8_t *y, const int8_t *a, const int8_t *c, int8_t *scratch,
                        const kg_stage *stage, const kg_window *g) {
    if (stage->kind == KG_STAGE_CONV_LIMITED) {
        kg_conv_limited_params p = *(const kg_conv_limited_params *)stage->params;
        p.layer.window = *g;
        kg_conv_limited(y, a, stage->w, 0, stage->b, scratch, &p);
    } else if (stage->kind == KG_STAGE_DEPTHWISE_LIMITED) {
        kg_depthwise_limited_params p = *(const kg_depthwise_limited_params *)stage->params;
        p.layer.window = *g;
        kg_depthwise_limited(y, a, stage->w, 0, stage->b, scratch, &p);
    } else {
        kg_add_limited(y, a, c, stage->params);
    }
}

static void pooled_row(int8_t *y, const int8_t *a, const int8_t *c, int8_t *scratch,
                       const kg_stage *stage, const kg_window *g) {
    if (stage->kind == KG_STAGE_MAX_POOL) {
        const kg_max_pool_params p = {*g};
        kg_max_pool(y, a, &p);
    } else if (stage->kind == KG_STAGE_MEAN_POOL) {
        kg_mean_pool_params p = *(const kg_mean_pool_params *)stage->params;
        p.window = *g;
        kg_mean_pool(y, a, &p);
    } else {
        limited_row(y, a, c, scratch, stage, g);
    }
}

void kg_stream_pooled(int8_t *y, const int8_t *x, const kg_rows *rows, uint8_t *scratch,
                      const kg_stream_params *p) {
    KG_ASSERT(kg_stream_params_ok(p));
    KG_ASSERT(kg_aligned(scratch) && y);
    run(&(stream){p, x, rows, y, scratch, (progress *)(void *)scratch, pooled_row});
}

void kg_stream_limited(int8_t *y, const int8_t *x, const kg_rows *rows, uint8_t *scratch,
                       const kg_stream_params *p) {
    KG_ASSERT(kg_stream_params_ok(p));
    KG_ASSERT(kg_aligned(scratch) && y);
    run(&(stream){p, x, rows, y, scratch, (progress *)(void *)scratch, limited_row});
}
