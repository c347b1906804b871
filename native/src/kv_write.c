/* kv_write.c - K and V of new rows into the cache: rotate, quantise, scatter. See attention.h. */
#include <string.h>

#include "attention.h"

/* Row (d) into lane `lane` of K, [d/2][16][2], elements of `width` bytes. */
static void scatter_k(void *k, size_t width, size_t head_dim, size_t lane, const void *row)
{
    for (size_t j = 0; j < head_dim; j += 2)
        memcpy((char *)k + (j / 2 * TRIT_BLOCK_TOKENS + lane) * 2 * width, (const char *)row + j * width, 2 * width);
}

/* Row (d) into token `lane` of V, [8][d][2]. */
static void scatter_v(void *v, size_t width, size_t head_dim, size_t lane, const void *row)
{
    for (size_t j = 0; j < head_dim; j++)
        memcpy((char *)v + ((lane / 2 * head_dim + j) * 2 + lane % 2) * width, (const char *)row + j * width, width);
}

static void write_row_16(const trit_row_ops *ops, trit_kv_part part, size_t d, size_t lane, const float *k,
                         const float *v)
{
    int16_t quantised[TRIT_MAX_HEAD_DIM];
    part.k_scale[lane] = ops->quant_l2(k, d, quantised);
    scatter_k(part.k, sizeof *quantised, d, lane, quantised);
    part.v_scale[lane] = ops->quant_v(v, d, quantised);
    scatter_v(part.v, sizeof *quantised, d, lane, quantised);
}

static void write_row_8(const trit_row_ops *ops, trit_kv_part part, size_t d, size_t lane, const float *k,
                        const float *v)
{
    int8_t quantised[TRIT_MAX_HEAD_DIM];
    part.k_scale[lane] = ops->quant_kv8(k, d, quantised);
    scatter_k(part.k, sizeof *quantised, d, lane, quantised);
    part.v_scale[lane] = ops->quant_kv8(v, d, quantised);
    scatter_v(part.v, sizeof *quantised, d, lane, quantised);
}

size_t trit_hadamard_width(size_t head_dim)
{
    return head_dim & (~head_dim + 1);
}

void trit_rotate(const trit_model *model, trit_kv_dtype dtype, size_t position, const float *x, float *out)
{
    const trit_row_ops *ops = model->kernels.rows;
    size_t d = (size_t)model->arch.head_dim, width = trit_hadamard_width(d);
    ops->rope(x, d, model->rope_cos + position * (d / 2), model->rope_sin + position * (d / 2), out);
    for (size_t j = 0; dtype == TRIT_KV_INT8 && j < d; j += width)
        ops->hadamard(out + j, width);
}

void trit_kv_write(const trit_model *model, const trit_kv *kv, size_t layer, size_t kv_head, trit_rows_run run,
                   const float *k, const float *v, size_t stride)
{
    const trit_row_ops *ops = model->kernels.rows;
    size_t d = kv->head_dim;
    float rotated[TRIT_MAX_HEAD_DIM];
    for (size_t i = 0; i < run.n_rows; i++) {
        size_t position = run.position + i, lane = position % TRIT_BLOCK_TOKENS;
        size_t block = (size_t)run.blocks[position / TRIT_BLOCK_TOKENS];
        trit_kv_part part = trit_kv_part_at(kv, block, layer, kv_head);
        if (lane == 0)
            memset(part.k, 0, kv->part_bytes); /* a fresh block: lanes not yet written hold zeros, not what was there */
        trit_rotate(model, kv->dtype, position, k + i * stride + kv_head * d, rotated);
        if (kv->dtype == TRIT_KV_INT8)
            write_row_8(ops, part, d, lane, rotated, v + i * stride + kv_head * d);
        else
            write_row_16(ops, part, d, lane, rotated, v + i * stride + kv_head * d);
    }
}
