/*
 * attention.h - integer attention over the paged KV cache, docs/numerics.md "Attention".
 *
 * A row sees earlier rows of the same step as the cache holds them, exactly as it would had they come one step earlier: K and V of every
 * row are written before a row that sees them attends. Where a sequence's rows are one tile, the tile's last item does both.
 */
#ifndef TRIT_ATTENTION_H
#define TRIT_ATTENTION_H

#include "attention_plan.h"
#include "kv.h"

/* Scratch of one thread for the queries of a tile. */
typedef struct trit_attention_scratch {
    int16_t *q;                 /* (tile queries, head_dim rounded up to 32) */
    int32_t *dots;              /* (tile queries, 64) */
    int16_t *a;                 /* (tile queries, 64) */
    trit_chunk_results results; /* (tile queries) of the running chunk */
    int32_t *n_valid;           /* (tile queries) tokens of the running chunk that the query sees */
    float *q_mul, *m, *l;       /* (tile queries) */
    float *o;                   /* (tile queries, head_dim rounded up to 16) */
} trit_attention_scratch;

trit_status trit_attention_scratch_create(trit_attention_scratch *out, const trit_arch *arch, trit_error *err);
void trit_attention_scratch_destroy(trit_attention_scratch *scratch);

/* One layer's attention: q, out (rows of the step, query_stride), k, v (rows of the step, kv_stride) float. */
typedef struct trit_attention_job {
    const trit_model *model;
    const trit_kv *kv;
    const trit_attention_plan *plan;
    size_t layer;
    const float *q, *k, *v;
    float *out;
    size_t query_stride, kv_stride;
} trit_attention_job;

/* A query or key (head_dim) at its place in the sequence: RoPE, and for int8 the Hadamard matrix over every trit_hadamard_width channels,
 * the largest power of two that divides head_dim, without its factor. docs/numerics.md "int8 keys and values". */
void trit_rotate(const trit_model *model, trit_kv_dtype dtype, size_t position, const float *x, float *out);
size_t trit_hadamard_width(size_t head_dim);

/* Rotate, quantise and store one KV head of consecutive rows. k, v (n_rows, stride) float, at the run's first row. */
void trit_kv_write(const trit_model *model, const trit_kv *kv, size_t layer, size_t kv_head, trit_rows_run run,
                   const float *k, const float *v, size_t stride);

/* Item 0 .. n_pieces * n_kv_heads - 1 of the plan, each exactly once, by any thread. */
void trit_attend(const trit_attention_job *job, size_t item, trit_attention_scratch *scratch);

#endif
