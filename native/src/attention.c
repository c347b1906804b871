/* attention.c - see attention.h. */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "mem.h"
#include "status.h"

/*
 * Query vectors of one call: enough that K and V, read once per call, are used often (prefill), few enough that the accumulators stay in the
 * first-level cache.
 */
enum { TILE_QUERIES = 32, CHUNK_BLOCKS = TRIT_CHUNK_TOKENS / TRIT_BLOCK_TOKENS };

/* ---- writing K and V -------------------------------------------------------------------------------------------- */

/* int16 (d) into lane `lane` of [d/2][16][2]. */
static void scatter_k(int16_t *k, size_t head_dim, size_t lane, const int16_t *row)
{
    for (size_t j = 0; j < head_dim; j += 2) {
        k[(j / 2 * TRIT_BLOCK_TOKENS + lane) * 2] = row[j];
        k[(j / 2 * TRIT_BLOCK_TOKENS + lane) * 2 + 1] = row[j + 1];
    }
}

/* int16 (d) into token `lane` of [8][d][2]. */
static void scatter_v(int16_t *v, size_t head_dim, size_t lane, const int16_t *row)
{
    for (size_t j = 0; j < head_dim; j++)
        v[(lane / 2 * head_dim + j) * 2 + lane % 2] = row[j];
}

void trit_kv_write(const trit_model *model, const trit_kv *kv, size_t layer, size_t kv_head, trit_rows_run run,
                   const float *k, const float *v, size_t stride, float *scratch_row)
{
    const trit_row_ops *ops = model->kernels.rows;
    size_t d = kv->head_dim;
    int16_t quantised[256]; /* the largest head_dim */
    size_t block = (size_t)run.blocks[run.position / TRIT_BLOCK_TOKENS];
    trit_kv_part part = trit_kv_part_at(kv, block, layer, kv_head);
    if (run.position % TRIT_BLOCK_TOKENS == 0)
        memset(part.k, 0, kv->part_bytes); /* a fresh block: lanes not yet written hold zeros, not what was there */
    for (size_t i = 0; i < run.n_rows; i++) {
        size_t position = run.position + i, lane = position % TRIT_BLOCK_TOKENS;
        memcpy(scratch_row, k + i * stride + kv_head * d, d * sizeof *k);
        ops->rope(scratch_row, d, model->rope_cos + position * (d / 2), model->rope_sin + position * (d / 2));
        part.k_scale[lane] = ops->quant_l2(scratch_row, d, quantised);
        scatter_k(part.k, d, lane, quantised);
        part.v_scale[lane] = ops->quant_v(v + i * stride + kv_head * d, d, quantised);
        scatter_v(part.v, d, lane, quantised);
    }
}

/* ---- attending -------------------------------------------------------------------------------------------------- */

static size_t query_stride(size_t head_dim)
{
    return trit_round_up(head_dim, 32);
}

static size_t acc_stride(size_t head_dim)
{
    return trit_round_up(head_dim, 16);
}

static size_t group_heads(const trit_model *model)
{
    return (size_t)(model->arch.n_heads / model->arch.n_kv_heads);
}

size_t trit_attention_tile_rows(const trit_model *model)
{
    size_t rows = TILE_QUERIES / group_heads(model);
    return rows < 1 ? 1 : rows;
}

/* RoPE and int16 of every query of the run, row by row, heads of a row adjacent. */
static void quantise_queries(const trit_model *model, size_t kv_head, trit_rows_run run, const float *q, size_t stride,
                             trit_attention_scratch *s)
{
    const trit_row_ops *ops = model->kernels.rows;
    size_t d = (size_t)model->arch.head_dim, heads = group_heads(model);
    float inv_sqrt_d = 1.0f / sqrtf((float)d);
    for (size_t i = 0; i < run.n_rows * heads; i++) {
        size_t position = run.position + i / heads;
        memcpy(s->row, q + i / heads * stride + (kv_head * heads + i % heads) * d, d * sizeof *q);
        ops->rope(s->row, d, model->rope_cos + position * (d / 2), model->rope_sin + position * (d / 2));
        s->q_mul[i] = ops->quant_l2(s->row, d, s->q + i * query_stride(d)) * inv_sqrt_d;
    }
}

/* One chunk of the cache: its blocks, and the scales of its lanes side by side. */
typedef struct chunk {
    size_t first; /* position of lane 0 */
    size_t n_blocks;
    const int16_t *k[CHUNK_BLOCKS], *v[CHUNK_BLOCKS];
    float k_scale[TRIT_CHUNK_TOKENS], v_scale[TRIT_CHUNK_TOKENS];
} chunk;

static void gather_chunk(chunk *c, const trit_kv *kv, size_t layer, size_t kv_head, const trit_rows_run *run)
{
    size_t last = run->position + run->n_rows - 1; /* the furthest position that any query of the run sees */
    size_t in_reach = last - c->first + 1;
    c->n_blocks = in_reach >= TRIT_CHUNK_TOKENS ? CHUNK_BLOCKS : (in_reach + TRIT_BLOCK_TOKENS - 1) / TRIT_BLOCK_TOKENS;
    for (size_t b = 0; b < c->n_blocks; b++) {
        size_t block = (size_t)run->blocks[c->first / TRIT_BLOCK_TOKENS + b];
        trit_kv_part part = trit_kv_part_at(kv, block, layer, kv_head);
        c->k[b] = part.k;
        c->v[b] = part.v;
        memcpy(c->k_scale + b * TRIT_BLOCK_TOKENS, part.k_scale, TRIT_BLOCK_TOKENS * sizeof(float));
        memcpy(c->v_scale + b * TRIT_BLOCK_TOKENS, part.v_scale, TRIT_BLOCK_TOKENS * sizeof(float));
    }
}

/* Queries [from, n_q) of the run see the chunk; out rows as in trit_attend. */
static void attend_chunk(const trit_model *model, const chunk *c, const trit_rows_run *run, size_t kv_head, float *out,
                         size_t stride, trit_attention_scratch *s)
{
    const trit_kernels *kernels = &model->kernels;
    size_t d = (size_t)model->arch.head_dim, heads = group_heads(model);
    size_t from = c->first > run->position ? (c->first - run->position) * heads : 0;
    size_t n_q = run->n_rows * heads - from;
    kernels->qk(s->q + from * query_stride(d), query_stride(d), n_q, c->k, c->n_blocks, d, s->dots);
    for (size_t i = 0; i < n_q; i++) {
        size_t position = run->position + (from + i) / heads;
        size_t in_reach = position - c->first + 1;
        size_t n_valid = in_reach < TRIT_CHUNK_TOKENS ? in_reach : (size_t)TRIT_CHUNK_TOKENS;
        kernels->rows->chunk_softmax(s->dots + i * TRIT_CHUNK_TOKENS, c->k_scale, c->v_scale, n_valid,
                                     s->q_mul[from + i], s->a + i * TRIT_CHUNK_TOKENS, &s->m_c[i], &s->l_c[i],
                                     &s->w_scale[i]);
    }
    kernels->av(s->a, n_q, c->v, c->n_blocks, d, s->acc, acc_stride(d));
    for (size_t i = 0; i < n_q; i++) {
        size_t query = from + i;
        float *o = out + query / heads * stride + (kv_head * heads + query % heads) * d;
        kernels->rows->chunk_merge(s->acc + i * acc_stride(d), d, s->w_scale[i], s->m_c[i], s->l_c[i], c->first == 0,
                                   &s->m[query], &s->l[query], o);
    }
}

void trit_attend(const trit_model *model, const trit_kv *kv, size_t layer, size_t kv_head, trit_rows_run run,
                 const float *q, float *out, size_t stride, trit_attention_scratch *scratch)
{
    size_t d = kv->head_dim, heads = group_heads(model);
    quantise_queries(model, kv_head, run, q, stride, scratch);
    chunk c;
    memset(&c, 0, sizeof c);
    for (c.first = 0; c.first < run.position + run.n_rows; c.first += TRIT_CHUNK_TOKENS) {
        gather_chunk(&c, kv, layer, kv_head, &run);
        attend_chunk(model, &c, &run, kv_head, out, stride, scratch);
    }
    for (size_t i = 0; i < run.n_rows * heads; i++)
        model->kernels.rows->scale(out + i / heads * stride + (kv_head * heads + i % heads) * d, 1.0f / scratch->l[i],
                                   d);
}

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

trit_status trit_attention_scratch_create(trit_attention_scratch *out, const trit_model *model, trit_error *err)
{
    size_t d = (size_t)model->arch.head_dim;
    size_t n = trit_attention_tile_rows(model) * group_heads(model); /* bounded by the architecture's limits */
    trit_attention_scratch s = {.max_queries = n};
    s.q = trit_alloc(n * query_stride(d), sizeof *s.q);
    s.dots = trit_alloc(n * TRIT_CHUNK_TOKENS, sizeof *s.dots);
    s.a = trit_alloc(n * TRIT_CHUNK_TOKENS, sizeof *s.a);
    s.acc = trit_alloc(n * acc_stride(d), sizeof *s.acc);
    s.row = trit_alloc(d, sizeof *s.row);
    s.q_mul = trit_alloc(n * 6, sizeof *s.q_mul);
    if (s.q == NULL || s.dots == NULL || s.a == NULL || s.acc == NULL || s.row == NULL || s.q_mul == NULL) {
        trit_attention_scratch_destroy(&s);
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory for attention over %zu queries of %zu", n, d);
    }
    s.m = s.q_mul + n;
    s.l = s.m + n;
    s.w_scale = s.l + n;
    s.m_c = s.w_scale + n;
    s.l_c = s.m_c + n;
    *out = s;
    return TRIT_OK;
}

void trit_attention_scratch_destroy(trit_attention_scratch *scratch)
{
    trit_free(scratch->q);
    trit_free(scratch->dots);
    trit_free(scratch->a);
    trit_free(scratch->acc);
    trit_free(scratch->row);
    trit_free(scratch->q_mul);
    *scratch = (trit_attention_scratch){0};
}
