/*
 * attention.h - integer attention over the paged KV cache, docs/numerics.md "Attention".
 *
 * First every row's K and V are written (trit_kv_write), then every row attends (trit_attend): a row sees earlier rows of the
 * same step as the cache holds them, exactly as it would had they come one step earlier.
 */
#ifndef TRIT_ATTENTION_H
#define TRIT_ATTENTION_H

#include "kv.h"

/* Consecutive rows of one sequence. */
typedef struct trit_rows_run {
    const int32_t *blocks; /* the sequence's block table */
    size_t row, n_rows;    /* rows of the step */
    size_t position;       /* of the first */
} trit_rows_run;

/* Scratch of one thread for up to max_queries query vectors at once. */
typedef struct trit_attention_scratch {
    size_t max_queries;
    int16_t *q;                                 /* (max_queries, head_dim rounded up to 32) */
    int32_t *dots;                              /* (max_queries, 64) */
    int16_t *a;                                 /* (max_queries, 64) */
    int32_t *acc;                               /* (max_queries, head_dim rounded up to 16) */
    float *q_mul, *m, *l, *w_scale, *m_c, *l_c; /* (max_queries) */
    float *row;                                 /* (head_dim) */
} trit_attention_scratch;

trit_status trit_attention_scratch_create(trit_attention_scratch *out, const trit_model *model, trit_error *err);
void trit_attention_scratch_destroy(trit_attention_scratch *scratch);
/* Rows of one sequence that one call of trit_attend takes. */
size_t trit_attention_tile_rows(const trit_model *model);

/* Rotate, quantise and store one KV head of the rows of one block. k, v (n_rows, stride) float, at the run's first row. */
void trit_kv_write(const trit_model *model, const trit_kv *kv, size_t layer, size_t kv_head, trit_rows_run run,
                   const float *k, const float *v, size_t stride, float *scratch_row);

/* The query heads of one KV head for the rows of the run. q, out (n_rows, stride) float, at the run's first row. */
void trit_attend(const trit_model *model, const trit_kv *kv, size_t layer, size_t kv_head, trit_rows_run run,
                 const float *q, float *out, size_t stride, trit_attention_scratch *scratch);

#endif
