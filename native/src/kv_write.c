/* kv_write.c - K and V of new rows into the cache: rotate, quantise, scatter. See attention.h. */
#include <string.h>

#include "attention.h"

/* int16 (d) into lane `lane` of [d/2][16][2]. */
static void scatter_k(int16_t *k, size_t head_dim, size_t lane, const int16_t *row)
{
    for (size_t j = 0; j < head_dim; j += 2)
        memcpy(k + (j / 2 * TRIT_BLOCK_TOKENS + lane) * 2, row + j, 2 * sizeof *row);
}

/* int16 (d) into token `lane` of [8][d][2]. */
static void scatter_v(int16_t *v, size_t head_dim, size_t lane, const int16_t *row)
{
    for (size_t j = 0; j < head_dim; j++)
        v[(lane / 2 * head_dim + j) * 2 + lane % 2] = row[j];
}

void trit_kv_write(const trit_model *model, const trit_kv *kv, size_t layer, size_t kv_head, trit_rows_run run,
                   const float *k, const float *v, size_t stride)
{
    const trit_row_ops *ops = model->kernels.rows;
    size_t d = kv->head_dim;
    float rotated[TRIT_MAX_HEAD_DIM];
    int16_t quantised[TRIT_MAX_HEAD_DIM];
    for (size_t i = 0; i < run.n_rows; i++) {
        size_t position = run.position + i, lane = position % TRIT_BLOCK_TOKENS;
        size_t block = (size_t)run.blocks[position / TRIT_BLOCK_TOKENS];
        trit_kv_part part = trit_kv_part_at(kv, block, layer, kv_head);
        if (lane == 0)
            memset(part.k, 0, kv->part_bytes); /* a fresh block: lanes not yet written hold zeros, not what was there */
        ops->rope(k + i * stride + kv_head * d, d, model->rope_cos + position * (d / 2),
                  model->rope_sin + position * (d / 2), rotated);
        part.k_scale[lane] = ops->quant_l2(rotated, d, quantised);
        scatter_k(part.k, d, lane, quantised);
        part.v_scale[lane] = ops->quant_v(v + i * stride + kv_head * d, d, quantised);
        scatter_v(part.v, d, lane, quantised);
    }
}
