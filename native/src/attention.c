/* attention.c - see attention.h. */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "mem.h"
#include "status.h"

enum { CHUNK_BLOCKS = TRIT_CHUNK_TOKENS / TRIT_BLOCK_TOKENS };

static size_t query_stride(const trit_arch *arch)
{
    return trit_round_up((size_t)arch->head_dim, 32);
}

/* The queries of one KV head of a tile: heads of a row adjacent. */
typedef struct tile_queries {
    const trit_attention_job *job;
    const trit_attention_tile *tile;
    size_t kv_head, heads, n;
    trit_attention_scratch *s;
} tile_queries;

/* ---- one chunk -------------------------------------------------------------------------------------------------- */

/* One chunk of the cache: its blocks, and the scales of its lanes side by side. */
typedef struct chunk {
    size_t index, first; /* position of lane 0 */
    size_t n_blocks;
    const void *k[CHUNK_BLOCKS], *v[CHUNK_BLOCKS];
    const void *next_k[CHUNK_BLOCKS]; /* of the next chunk, or of this one where that has none */
    float k_scale[TRIT_CHUNK_TOKENS], v_scale[TRIT_CHUNK_TOKENS];
} chunk;

static void gather_chunk(chunk *c, const tile_queries *t, size_t index)
{
    const trit_rows_run *rows = &t->tile->rows;
    size_t last = rows->position + rows->n_rows - 1; /* the furthest position that any query of the tile sees */
    c->index = index;
    c->first = index * TRIT_CHUNK_TOKENS;
    size_t in_reach = last - c->first + 1;
    c->n_blocks = in_reach >= TRIT_CHUNK_TOKENS ? CHUNK_BLOCKS : (in_reach + TRIT_BLOCK_TOKENS - 1) / TRIT_BLOCK_TOKENS;
    for (size_t b = 0; b < c->n_blocks; b++) {
        size_t block = (size_t)rows->blocks[c->first / TRIT_BLOCK_TOKENS + b];
        trit_kv_part part = trit_kv_part_at(t->job->kv, block, t->job->layer, t->kv_head);
        c->k[b] = part.k;
        c->v[b] = part.v;
        memcpy(c->k_scale + b * TRIT_BLOCK_TOKENS, part.k_scale, TRIT_BLOCK_TOKENS * sizeof(float));
        memcpy(c->v_scale + b * TRIT_BLOCK_TOKENS, part.v_scale, TRIT_BLOCK_TOKENS * sizeof(float));
        size_t next = c->first + (CHUNK_BLOCKS + b) * TRIT_BLOCK_TOKENS;
        c->next_k[b] = part.k;
        if (next <= last) {
            part =
                trit_kv_part_at(t->job->kv, (size_t)rows->blocks[next / TRIT_BLOCK_TOKENS], t->job->layer, t->kv_head);
            c->next_k[b] = part.k;
            __builtin_prefetch(part.k_scale);
            __builtin_prefetch(part.v_scale);
        }
    }
}

/* The first query of the tile that sees the chunk; all later ones do. */
static size_t first_query(const tile_queries *t, size_t chunk_index)
{
    size_t first = chunk_index * TRIT_CHUNK_TOKENS, position = t->tile->rows.position;
    return first > position ? (first - position) * t->heads : 0;
}

/* Queries [from, n) of the tile over the chunk: r is of query `from`. */
static void attend_chunk(const tile_queries *t, const chunk *c, size_t from, trit_chunk_results r)
{
    const trit_kernels *kernels = &t->job->model->kernels;
    const trit_arch *arch = &t->job->model->arch;
    trit_attention_scratch *s = t->s;
    size_t n = t->n - from, d = (size_t)arch->head_dim;
    for (size_t i = 0; i < n; i++) {
        size_t in_reach = t->tile->rows.position + (from + i) / t->heads - c->first + 1;
        s->n_valid[i] = (int32_t)(in_reach < TRIT_CHUNK_TOKENS ? in_reach : TRIT_CHUNK_TOKENS);
    }
    const int16_t *q = s->q + from * query_stride(arch);
    int narrow = t->job->kv->dtype == TRIT_KV_INT8;
    if (narrow)
        kernels->qk8(q, query_stride(arch), n, (const int8_t *const *)c->k, c->n_blocks, d, s->dots, c->v);
    else
        kernels->qk(q, query_stride(arch), n, (const int16_t *const *)c->k, c->n_blocks, d, s->dots, c->v);
    kernels->rows->chunk_softmax(s->dots, c->k_scale, c->v_scale, n, s->n_valid, s->q_mul + from, s->a, r.m_c, r.l_c,
                                 r.w_scale);
    if (narrow)
        kernels->av8(s->a, n, (const int8_t *const *)c->v, c->n_blocks, d, r.acc, trit_acc_stride(arch), c->next_k);
    else
        kernels->av(s->a, n, (const int16_t *const *)c->v, c->n_blocks, d, r.acc, trit_acc_stride(arch), c->next_k);
}

static void merge_chunk(const tile_queries *t, size_t chunk_index, size_t from, trit_chunk_results r)
{
    const trit_arch *arch = &t->job->model->arch;
    size_t stride = trit_acc_stride(arch);
    trit_attention_scratch *s = t->s;
    t->job->model->kernels.rows->chunk_merge(r.acc, stride, t->n - from, (size_t)arch->head_dim, r.w_scale, r.m_c,
                                             r.l_c, chunk_index == 0, s->m + from, s->l + from, s->o + from * stride);
}

/* ---- one item --------------------------------------------------------------------------------------------------- */

/* RoPE and int16 of every query. */
static void quantise_queries(const tile_queries *t)
{
    const trit_model *model = t->job->model;
    const trit_row_ops *ops = model->kernels.rows;
    const trit_rows_run *rows = &t->tile->rows;
    size_t d = (size_t)model->arch.head_dim;
    float factor = 1.0f / sqrtf((float)d), rotated[TRIT_MAX_HEAD_DIM];
    if (t->job->kv->dtype == TRIT_KV_INT8)
        factor = factor / (float)trit_hadamard_width(d); /* the matrix's factor, twice its root; a power of two */
    for (size_t i = 0; i < t->n; i++) {
        size_t row = i / t->heads, head = t->kv_head * t->heads + i % t->heads;
        trit_rotate(model, t->job->kv->dtype, rows->position + row,
                    t->job->q + (rows->row + row) * t->job->query_stride + head * d, rotated);
        t->s->q_mul[i] = ops->quant_l2(rotated, d, t->s->q + i * query_stride(&model->arch)) * factor;
    }
}

static trit_chunk_results results_at(trit_chunk_results r, size_t index, size_t acc_stride)
{
    return (trit_chunk_results){r.acc + index * acc_stride, r.m_c + index, r.l_c + index, r.w_scale + index};
}

/* Where a tile of several pieces leaves what query 0 got from the chunk. */
static trit_chunk_results shared_results(const tile_queries *t, size_t chunk_index)
{
    size_t index = t->tile->first_result + (t->kv_head * t->tile->n_chunks + chunk_index) * t->n;
    return results_at(t->job->plan->results, index, trit_acc_stride(&t->job->model->arch));
}

/* The last piece of the tile to be finished merges all. */
static int finishes_tile(const tile_queries *t)
{
    const trit_attention_plan *plan = t->job->plan;
    size_t index = (size_t)(t->tile - plan->tiles) * (size_t)plan->arch->n_kv_heads + t->kv_head;
    if (atomic_fetch_sub_explicit(&plan->unfinished[index], 1, memory_order_acq_rel) != 1)
        return 0;
    atomic_store_explicit(&plan->unfinished[index], t->tile->n_pieces, memory_order_relaxed); /* for the next layer */
    return 1;
}

/* o / l of every query to its place. */
static void write_outputs(const tile_queries *t)
{
    const trit_arch *arch = &t->job->model->arch;
    size_t d = (size_t)arch->head_dim;
    for (size_t i = 0; i < t->n; i++) {
        size_t row = t->tile->rows.row + i / t->heads, head = t->kv_head * t->heads + i % t->heads;
        t->job->model->kernels.rows->scale(t->s->o + i * trit_acc_stride(arch), 1.0f / t->s->l[i], d,
                                           t->job->out + row * t->job->query_stride + head * d);
    }
}

void trit_attend(const trit_attention_job *job, size_t item, trit_attention_scratch *scratch)
{
    const trit_attention_plan *plan = job->plan;
    const trit_attention_piece *piece = &plan->pieces[item % plan->n_pieces];
    const trit_attention_tile *tile = &plan->tiles[piece->tile];
    size_t heads = trit_group_heads(plan->arch);
    const tile_queries t = {job, tile, item / plan->n_pieces, heads, tile->rows.n_rows * heads, scratch};
    if (tile->writes && piece->end_chunk == tile->n_chunks)
        trit_kv_write(job->model, job->kv, job->layer, t.kv_head, tile->rows, job->k + tile->rows.row * job->kv_stride,
                      job->v + tile->rows.row * job->kv_stride, job->kv_stride);
    quantise_queries(&t);
    chunk c;
    memset(&c, 0, sizeof c);
    for (size_t index = piece->first_chunk; index < piece->end_chunk; index++) {
        size_t from = first_query(&t, index);
        gather_chunk(&c, &t, index);
        if (tile->n_pieces > 1) {
            attend_chunk(&t, &c, from, results_at(shared_results(&t, index), from, trit_acc_stride(plan->arch)));
        } else {
            attend_chunk(&t, &c, from, scratch->results);
            merge_chunk(&t, index, from, scratch->results);
        }
    }
    if (tile->n_pieces > 1) {
        if (!finishes_tile(&t))
            return;
        for (size_t index = 0; index < tile->n_chunks; index++) {
            size_t from = first_query(&t, index);
            merge_chunk(&t, index, from, results_at(shared_results(&t, index), from, trit_acc_stride(plan->arch)));
        }
    }
    write_outputs(&t);
}

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

trit_status trit_attention_scratch_create(trit_attention_scratch *out, const trit_arch *arch, trit_error *err)
{
    size_t n = trit_attention_tile_rows(arch) * trit_group_heads(arch); /* bounded by the architecture's limits */
    trit_attention_scratch s = {0};
    s.q = trit_alloc(n * query_stride(arch), sizeof *s.q);
    s.dots = trit_alloc(n * TRIT_CHUNK_TOKENS, sizeof *s.dots);
    s.a = trit_alloc(n * TRIT_CHUNK_TOKENS, sizeof *s.a);
    s.results.acc = trit_alloc(n * trit_acc_stride(arch), sizeof *s.results.acc);
    s.n_valid = trit_alloc(n, sizeof *s.n_valid);
    s.q_mul = trit_alloc(n * 6, sizeof *s.q_mul);
    s.o = trit_alloc(n * trit_acc_stride(arch), sizeof *s.o);
    if (s.q == NULL || s.dots == NULL || s.a == NULL || s.results.acc == NULL || s.n_valid == NULL || s.q_mul == NULL ||
        s.o == NULL) {
        trit_attention_scratch_destroy(&s);
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory for attention over %zu queries of %d", n, arch->head_dim);
    }
    s.m = s.q_mul + n;
    s.l = s.m + n;
    s.results.w_scale = s.l + n;
    s.results.m_c = s.results.w_scale + n;
    s.results.l_c = s.results.m_c + n;
    *out = s;
    return TRIT_OK;
}

void trit_attention_scratch_destroy(trit_attention_scratch *scratch)
{
    trit_free(scratch->q);
    trit_free(scratch->dots);
    trit_free(scratch->a);
    trit_free(scratch->results.acc);
    trit_free(scratch->n_valid);
    trit_free(scratch->q_mul);
    trit_free(scratch->o);
    *scratch = (trit_attention_scratch){0};
}
