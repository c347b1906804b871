/* session.h - one caller's threads and scratch: everything a step needs, allocated once. */
#ifndef TRIT_SESSION_H
#define TRIT_SESSION_H

#include "attention.h"
#include "sampler.h"
#include "thread_pool.h"

/* What one thread did in a stage of a feed-forward block. */
typedef struct trit_ffn_counts {
    size_t gates_open, up_rows_read;
    int has_sums; /* in session->down_sums */
} trit_ffn_counts;

/* Scratch of one thread: a float row as wide as any, an expanded panel of the widest dense linear (NULL if there is none), and attention
 * over one tile. */
typedef struct trit_thread_scratch {
    float *row;
    uint8_t *panel;
    trit_attention_scratch attention;
    trit_ffn_counts counts;
} trit_thread_scratch;

enum { TRIT_SESSION_ARRAYS = 30 };

struct trit_session {
    void *arrays[TRIT_SESSION_ARRAYS]; /* what the array pointers below point to, to be freed */
    const trit_model *model;
    trit_kv *kv;
    trit_session_options options;
    trit_pool *pool;
    size_t n_threads;
    trit_thread_scratch *threads;   /* (n_threads) */
    size_t n_samplers;              /* threads that can sample */
    trit_sampler_scratch *samplers; /* (n_samplers) */

    /* Rows of the residual stream and of each linear's output, float; strides in elements, rows 64-byte aligned. */
    size_t hidden_stride, query_stride, kv_stride, ffn_stride, down_stride, vocab_stride;
    float *x;           /* (max_rows, hidden_stride) residual stream */
    float *y;           /* (max_rows, hidden_stride) what a sublayer adds to it */
    float *q, *attn;    /* (max_rows, query_stride) */
    float *k, *v;       /* (max_rows, kv_stride) */
    float *gate, *up;   /* (max_rows, ffn_stride) */
    int8_t *x_q;        /* (max_rows, widest padded input) */
    float *x_scale;     /* (max_rows) */
    int32_t *x_sum;     /* (max_rows) */
    int32_t *x_zeros;   /* (max_rows) */
    float *row_scale;   /* (3, max_rows): w_scale * x_scale of up to three linears of one input */
    int32_t *n_inputs;  /* (max_rows): length of the row's list in gate, see ffn.h */
    int32_t *down_sums; /* (n_threads, TRIT_DOWN_FEW_ROWS, down_stride): 0 between stages */

    /* Rows that have outputs. */
    int32_t *output_rows; /* (max_outputs) row of the step */
    int32_t *logits_of;   /* (max_outputs) row of logits of each output */
    int16_t *h;           /* (max_outputs, hidden rounded up to 64) */
    int8_t *h_hi, *h_lo;  /* the same in balanced byte planes */
    float *h_scale;       /* (max_outputs) */
    int64_t *slack;       /* (max_outputs) see screen.h */
    float *logits;        /* (max_outputs, vocab_stride); upper bounds of screened rows */
    size_t max_screened;  /* rows of a step that may be screened: one per sequence */
    size_t dots_stride;
    int64_t *dots;      /* (max_screened, dots_stride) of screened rows with the high plane */
    int32_t *sampled;   /* (max_outputs) trit_sampled */
    int32_t *finished;  /* (max_outputs) panels read from the low plane */
    int32_t *undecided; /* (max_outputs) screened rows of logits to be read whole */

    trit_attention_plan plan; /* of the running step */
    uint64_t *writers;        /* (n_blocks) step that last wrote the block */
    uint64_t step;
    trit_session_stats stats;
};

trit_status trit_session_build(trit_session **out, const trit_model *model, trit_kv *kv,
                               const trit_session_options *options, trit_error *err);
void trit_session_tear_down(trit_session *session);

#endif
