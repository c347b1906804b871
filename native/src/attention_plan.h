/*
 * attention_plan.h - how the rows of a step are cut into work for attention, once per step and the same for every layer.
 *
 *      sequence   its rows of the step, cut into tiles (rows that read K and V together)
 *      tile       its chunks of the cache, cut into pieces where the whole step has few tiles: a long context then keeps all threads busy
 *      item       one KV head of one piece: what a thread claims. Items of a KV head are neighbours, so that its K and V stay in cache.
 *
 * A tile of one piece merges its chunks as it goes. Pieces of a tile that has several leave what each chunk gave in `results`; the
 * thread that finishes the last of them merges all chunks in ascending order: docs/numerics.md has one order, whoever did the work.
 */
#ifndef TRIT_ATTENTION_PLAN_H
#define TRIT_ATTENTION_PLAN_H

#include <stdatomic.h>

#include "model.h"

/* Consecutive rows of one sequence. */
typedef struct trit_rows_run {
    const int32_t *blocks; /* the sequence's block table */
    size_t row, n_rows;    /* rows of the step */
    size_t position;       /* of the first */
} trit_rows_run;

typedef struct trit_attention_tile {
    trit_rows_run rows;
    int writes; /* its last piece writes K and V of its rows before it reads: they are all that the sequence brings */
    size_t n_chunks, n_pieces;
    size_t first_result; /* if it has several pieces: of KV head 0 and chunk 0 */
} trit_attention_tile;

typedef struct trit_attention_piece {
    size_t tile, first_chunk, end_chunk;
} trit_attention_piece;

/* What one chunk gives one query. */
typedef struct trit_chunk_results {
    int32_t *acc;               /* (n, acc_stride) */
    float *m_c, *l_c, *w_scale; /* (n) */
} trit_chunk_results;

typedef struct trit_attention_plan {
    const trit_arch *arch;
    size_t n_threads, max_results;
    trit_rows_run *
        segments; /* (max_rows) rows within one block, of sequences with several tiles: written before anything is read */
    trit_attention_tile *tiles;   /* (max_rows) */
    trit_attention_piece *pieces; /* (max_rows + 8 n_threads) */
    atomic_size_t *unfinished;    /* (max_rows, n_kv_heads): pieces of a tile, while it has several */
    trit_chunk_results results;   /* of tiles with several pieces: (KV head, chunk, query) */
    size_t n_segments, n_tiles, n_pieces;
} trit_attention_plan;

trit_status trit_attention_plan_create(trit_attention_plan *out, const trit_arch *arch, size_t max_rows,
                                       size_t n_threads, trit_error *err);
void trit_attention_plan_destroy(trit_attention_plan *plan);
void trit_attention_plan_cut(trit_attention_plan *plan, const trit_batch *batch);

/* Query heads of one KV head. */
static inline size_t trit_group_heads(const trit_arch *arch)
{
    return (size_t)(arch->n_heads / arch->n_kv_heads);
}

/* Rows of a tile. */
size_t trit_attention_tile_rows(const trit_arch *arch);

/* int32 from one query's accumulators to the next. */
static inline size_t trit_acc_stride(const trit_arch *arch)
{
    return ((size_t)arch->head_dim + 15) / 16 * 16;
}

#endif
