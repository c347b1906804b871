/*
 * forward.c - the forward pass of a W1.58 A8 transformer (BitNet b1.58 2B4T, arXiv 2504.12285), over a ragged batch of rows.
 *
 *      x = embed(token)
 *      each layer:   h = int8(norm(x));            q, k, v = Wq h, Wk h, Wv h
 *                    write rope(k), v to the cache; a = attention(rope(q))
 *                    x += Wo int8(sub_norm(a))
 *                    h = int8(norm(x));            g, u = Wg h, Wu h
 *                    x += Wd int8(sub_norm(act(g) * u))
 *      rows with outputs:   token = sample(head(int16(norm(x))))      head_stage.c
 *
 * A stage is one fork over rows, panels or (rows, KV head) items. Every float operation belongs to one row and its order does not
 * depend on how rows were batched or items split: docs/numerics.md.
 */
#include <assert.h>
#include <string.h>

#include "ffn.h"
#include "forward.h"
#include "head_stage.h"
#include "linear.h"
#include "mem.h"
#include "status.h"

typedef struct step {
    trit_session *s;
    const trit_model *model;
    const trit_row_ops *ops;
    const trit_batch *batch;
    size_t n_rows;

    /* What the running stage works on. */
    size_t layer;
    const float *norm;         /* weight, or NULL: none */
    const trit_linear *linear; /* whose input is being quantised */
    int add_residual;          /* x += y first */
    const float *rows;         /* trit_quantise_rows */
    size_t rows_stride;
} step;

/* ---- embedding -------------------------------------------------------------------------------------------------- */

static void embed_row(void *context, size_t row, size_t thread)
{
    (void)thread;
    const step *st = context;
    const trit_planes *embed = &st->model->embed;
    size_t token = (size_t)st->batch->token_ids[row], hidden = (size_t)st->model->arch.hidden;
    size_t first = token / TRIT_HEAD_PANEL * embed->groups * 64 + token % TRIT_HEAD_PANEL * TRIT_GROUP;
    float scale = trit_exp2_negated(embed->shift[token]);
    float *x = st->s->x + row * st->s->hidden_stride;
    for (size_t c = 0; c < hidden; c++) {
        size_t at = first + c / TRIT_GROUP * 64 + c % TRIT_GROUP;
        x[c] = (float)(256 * embed->hi[at] + embed->lo[at]) * scale;
    }
}

/* ---- row stages: residual, norm, int8 --------------------------------------------------------------------------- */

static void quantise(const step *st, size_t row, const float *values)
{
    const trit_session *s = st->s;
    size_t stride = trit_linear_x_stride(st->linear);
    s->x_scale[row] =
        st->ops->quant_i8(values, st->linear->k, stride, s->x_q + row * stride, &s->x_sum[row], &s->x_zeros[row]);
}

/* x += y, then the int8 of norm(x): the input of q, k, v or of gate, up. */
static void norm_residual_row(void *context, size_t row, size_t thread)
{
    const step *st = context;
    trit_session *s = st->s;
    size_t hidden = (size_t)st->model->arch.hidden;
    float *x = s->x + row * s->hidden_stride, *normed = s->threads[thread].row;
    if (st->add_residual)
        st->ops->add(x, s->y + row * s->hidden_stride, hidden);
    st->ops->rmsnorm(x, st->norm, hidden, st->model->arch.norm_eps, normed);
    quantise(st, row, normed);
}

/* The input of o: attention's output, sub-normed over all heads. */
static void attn_out_row(void *context, size_t row, size_t thread)
{
    const step *st = context;
    trit_session *s = st->s;
    float *a = s->attn + row * s->query_stride, *normed = s->threads[thread].row;
    if (st->norm == NULL) {
        quantise(st, row, a);
        return;
    }
    st->ops->rmsnorm(a, st->norm, st->linear->k, st->model->arch.norm_eps, normed);
    quantise(st, row, normed);
}

/* The input of down: act(gate) * up, sub-normed over the full width. */
static void ffn_row(void *context, size_t row, size_t thread)
{
    const step *st = context;
    trit_session *s = st->s;
    const float *gate = s->gate + row * s->ffn_stride, *up = s->up + row * s->ffn_stride;
    float *m = s->threads[thread].row;
    if (st->model->arch.activation == TRIT_ACT_RELU2)
        st->ops->relu2_mul(gate, up, st->linear->k, m);
    else
        st->ops->silu_mul(gate, up, st->linear->k, m);
    if (st->norm != NULL)
        st->ops->rmsnorm(m, st->norm, st->linear->k, st->model->arch.norm_eps, m);
    quantise(st, row, m);
    trit_ffn_list_inputs(s, st->linear, row, st->n_rows);
}

static void over_rows(step *st, trit_task_fn *task, const float *norm, const trit_linear *linear)
{
    st->norm = norm;
    st->linear = linear;
    trit_pool_run(st->s->pool, task, st, st->n_rows, st->s->n_threads);
}

static void plain_row(void *context, size_t row, size_t thread)
{
    (void)thread;
    const step *st = context;
    quantise(st, row, st->rows + row * st->rows_stride);
}

void trit_quantise_rows(trit_session *s, const trit_linear *linear, const float *rows, size_t stride, size_t n_rows)
{
    step st = {.s = s,
               .model = s->model,
               .ops = s->model->kernels.rows,
               .n_rows = n_rows,
               .rows = rows,
               .rows_stride = stride};
    over_rows(&st, plain_row, NULL, linear);
}

/* ---- attention stages ------------------------------------------------------------------------------------------- */

static void write_item(void *context, size_t item, size_t thread)
{
    (void)thread;
    const step *st = context;
    const trit_session *s = st->s;
    trit_rows_run run = s->plan.segments[item % s->plan.n_segments];
    trit_kv_write(st->model, s->kv, st->layer, item / s->plan.n_segments, run, s->k + run.row * s->kv_stride,
                  s->v + run.row * s->kv_stride, s->kv_stride);
}

static void attend_item(void *context, size_t item, size_t thread)
{
    const step *st = context;
    trit_session *s = st->s;
    const trit_attention_job job = {.model = st->model,
                                    .kv = s->kv,
                                    .plan = &s->plan,
                                    .layer = st->layer,
                                    .q = s->q,
                                    .k = s->k,
                                    .v = s->v,
                                    .out = s->attn,
                                    .query_stride = s->query_stride,
                                    .kv_stride = s->kv_stride};
    trit_attend(&job, item, &s->threads[thread].attention);
}

/* ---- layers ----------------------------------------------------------------------------------------------------- */

static void attention_block(step *st, const trit_layer *layer)
{
    trit_session *s = st->s;
    const trit_linear *linears = layer->linears;
    size_t kv_heads = (size_t)st->model->arch.n_kv_heads;
    over_rows(st, norm_residual_row, layer->norm_attn, &linears[TRIT_T_Q]);
    const trit_linear_job qkv[] = {{&linears[TRIT_T_Q], s->q, s->query_stride},
                                   {&linears[TRIT_T_K], s->k, s->kv_stride},
                                   {&linears[TRIT_T_V], s->v, s->kv_stride}};
    trit_linear_run(s, qkv, 3, st->n_rows);
    trit_pool_run(s->pool, write_item, st, s->plan.n_segments * kv_heads, s->n_threads);
    trit_pool_run(s->pool, attend_item, st, s->plan.n_pieces * kv_heads, s->n_threads);
    over_rows(st, attn_out_row, layer->norm_attn_sub, &linears[TRIT_T_O]);
    trit_linear_run(s, &(trit_linear_job){&linears[TRIT_T_O], s->y, s->hidden_stride}, 1, st->n_rows);
}

static void ffn_block(step *st, const trit_layer *layer)
{
    trit_session *s = st->s;
    const trit_linear *linears = layer->linears;
    over_rows(st, norm_residual_row, layer->norm_ffn, &linears[TRIT_T_GATE]);
    trit_ffn_gate_up(s, layer, st->n_rows);
    over_rows(st, ffn_row, layer->norm_ffn_sub, &linears[TRIT_T_DOWN]);
    for (size_t row = 0; row < st->n_rows; row++)
        s->stats.down_zeros += (uint64_t)s->x_zeros[row];
    s->stats.down_inputs += st->n_rows * linears[TRIT_T_DOWN].k;
    trit_ffn_down(s, &linears[TRIT_T_DOWN], st->n_rows);
}

/* ---- the step --------------------------------------------------------------------------------------------------- */

trit_status trit_forward(trit_session *s, const trit_batch *batch, trit_choice *choices, float *logits, trit_error *err)
{
    step st = {
        .s = s, .model = s->model, .ops = s->model->kernels.rows, .batch = batch, .n_rows = (size_t)batch->n_rows};
    assert(st.n_rows >= 1);
    trit_attention_plan_cut(&s->plan, batch);
    trit_pool_run(s->pool, embed_row, &st, st.n_rows, s->n_threads);
    for (st.layer = 0; st.layer < (size_t)s->model->arch.n_layers; st.layer++) {
        const trit_layer *layer = &s->model->layers[st.layer];
        st.add_residual = st.layer > 0; /* y of the last layer's down */
        attention_block(&st, layer);
        st.add_residual = 1;
        ffn_block(&st, layer);
    }
    s->stats.steps++;
    s->stats.rows += st.n_rows;
    return batch->n_outputs > 0 ? trit_choose_tokens(s, batch, choices, logits, err) : TRIT_OK;
}
