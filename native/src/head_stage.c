/*
 * head_stage.c - from the last hidden rows to chosen tokens.
 *
 *      h = int16(norm(x));  bounds of the logits = high plane x h;  token = sample(bounds)
 *
 * The low plane is read where the bounds do not tell, and whole for rows whose every logit is wanted: docs/decisions/0007-screening-the-head.md.
 */
#include <string.h>

#include "head_stage.h"
#include "mem.h"
#include "status.h"

enum { HEAD_UNIT_PANELS = 16, HEAD_UNIT = HEAD_UNIT_PANELS * TRIT_HEAD_PANEL, HEAD_UNIT_ROWS = 24 };

typedef struct head_step {
    trit_session *s;
    const trit_model *model;
    const trit_row_ops *ops;
    const trit_batch *batch;
    trit_choice *choices;
    size_t n_logit_rows, n_whole; /* rows with outputs; the first n_whole of them read the low plane whole */
    size_t n_undecided;
} head_step;

/* ---- which rows ------------------------------------------------------------------------------------------------- */

/* Log-probabilities, and whoever asks for the logits, need every one of a row. */
static int is_whole(const trit_output *output, const float *logits)
{
    return logits != NULL || output->target >= 0 || output->n_top >= 0;
}

/* The end of the run of outputs of one row: output rows ascend. */
static int32_t end_of_run(const trit_batch *b, int32_t at)
{
    int32_t end = at + 1;
    while (end < b->n_outputs && b->outputs[end].row == b->outputs[at].row)
        end++;
    return end;
}

/* Rows that have outputs, each once: first those that read both planes whole, then those to be screened. */
static void list_logit_rows(head_step *st, const float *logits)
{
    trit_session *s = st->s;
    const trit_batch *b = st->batch;
    size_t n_screened = 0;
    for (int32_t i = 0, end; i < b->n_outputs; i = end) {
        int whole = n_screened == s->max_screened;
        end = end_of_run(b, i);
        for (int32_t j = i; j < end; j++)
            whole |= is_whole(&b->outputs[j], logits);
        s->logits_of[i] = whole; /* for the moment */
        n_screened += !whole;
        st->n_whole += (size_t)whole;
    }
    size_t next_whole = 0, next_screened = st->n_whole;
    for (int32_t i = 0, end; i < b->n_outputs; i = end) {
        size_t item = s->logits_of[i] ? next_whole++ : next_screened++;
        end = end_of_run(b, i);
        s->output_rows[item] = b->outputs[i].row;
        for (int32_t j = i; j < end; j++)
            s->logits_of[j] = (int32_t)item;
    }
    st->n_logit_rows = next_screened;
}

/* ---- planes ----------------------------------------------------------------------------------------------------- */

static size_t head_width(const head_step *st)
{
    return trit_round_up((size_t)st->model->arch.hidden, 64);
}

static void final_row(void *context, size_t item, size_t thread)
{
    const head_step *st = context;
    trit_session *s = st->s;
    size_t hidden = (size_t)st->model->arch.hidden, width = head_width(st), at = item * width;
    size_t row = (size_t)s->output_rows[item];
    float *x = s->x + row * s->hidden_stride, *normed = s->threads[thread].row;
    st->ops->add(x, s->y + row * s->hidden_stride, hidden);
    st->ops->rmsnorm(x, st->model->norm_final, hidden, st->model->arch.norm_eps, normed);
    s->h_scale[item] = st->ops->quant_head(normed, hidden, width, s->h_hi + at, s->h_lo + at);
    for (size_t c = 0; c < width; c++)
        s->h[at + c] = (int16_t)(256 * s->h_hi[at + c] + s->h_lo[at + c]);
    s->slack[item] = trit_screen_slack(s->h + at, hidden);
}

static trit_screen screen_of(const head_step *st, size_t item)
{
    const trit_session *s = st->s;
    size_t at = item * head_width(st);
    return (trit_screen){.kernel = st->model->kernels.head,
                         .head = &st->model->head,
                         .vocab = (size_t)st->model->arch.vocab,
                         .h = s->h + at,
                         .h_hi = s->h_hi + at,
                         .h_lo = s->h_lo + at,
                         .h_scale = s->h_scale[item],
                         .slack = s->slack[item],
                         .dots = s->dots + (item - st->n_whole) * s->dots_stride};
}

/* A run of head panels. */
typedef struct head_unit {
    size_t panel0, panel1, first, end; /* vocabulary rows [first, end) */
} head_unit;

static head_unit unit_of(const head_step *st, size_t item)
{
    size_t n_panels = st->model->head.n_panels, panel0 = item * HEAD_UNIT_PANELS, vocab = (size_t)st->model->arch.vocab;
    size_t panel1 = panel0 + HEAD_UNIT_PANELS < n_panels ? panel0 + HEAD_UNIT_PANELS : n_panels;
    size_t end = panel1 * TRIT_HEAD_PANEL;
    return (head_unit){panel0, panel1, panel0 * TRIT_HEAD_PANEL, end < vocab ? end : vocab};
}

/* Dots of one plane with the hidden rows [row, row + n_rows); dots (n_rows, stride) starts at the unit's first vocabulary row. */
static void multiply_plane(const head_step *st, const int8_t *plane, head_unit u, size_t row, size_t n_rows,
                           int64_t *dots, size_t stride)
{
    const trit_session *s = st->s;
    size_t groups = st->model->head.groups, width = head_width(st), at = row * width;
    st->model->kernels.head(s->h + at, s->h_hi + at, s->h_lo + at, width, n_rows, plane + u.panel0 * groups * 64,
                            groups, 0, u.panel1 - u.panel0, dots, stride);
}

static void write_logits(const head_step *st, head_unit u, size_t item, const int64_t *high, const int64_t *low)
{
    const trit_session *s = st->s;
    float *logits = s->logits + item * s->vocab_stride;
    for (size_t n = u.first; n < u.end; n++)
        logits[n] =
            trit_head_logit(256 * high[n - u.first] + low[n - u.first], s->h_scale[item], st->model->head.shift[n]);
}

static void high_unit(void *context, size_t item, size_t thread)
{
    (void)thread;
    const head_step *st = context;
    const trit_session *s = st->s;
    const trit_planes *head = &st->model->head;
    head_unit u = unit_of(st, item);
    int64_t high[HEAD_UNIT_ROWS][HEAD_UNIT], low[HEAD_UNIT_ROWS][HEAD_UNIT];
    for (size_t row = 0; row < st->n_whole; row += HEAD_UNIT_ROWS) {
        size_t n_rows = st->n_whole - row < HEAD_UNIT_ROWS ? st->n_whole - row : (size_t)HEAD_UNIT_ROWS;
        multiply_plane(st, head->hi, u, row, n_rows, high[0], HEAD_UNIT);
        multiply_plane(st, head->lo, u, row, n_rows, low[0], HEAD_UNIT);
        for (size_t r = 0; r < n_rows; r++)
            write_logits(st, u, row + r, high[r], low[r]);
    }
    size_t n_screened = st->n_logit_rows - st->n_whole;
    if (n_screened > 0)
        multiply_plane(st, head->hi, u, st->n_whole, n_screened, s->dots + u.first, s->dots_stride);
    for (size_t row = st->n_whole; row < st->n_logit_rows; row++) {
        trit_screen screen = screen_of(st, row);
        trit_screen_upper(&screen, u.first, u.end, s->logits + row * s->vocab_stride);
    }
}

/* The low plane for undecided rows. */
static void low_unit(void *context, size_t item, size_t thread)
{
    (void)thread;
    const head_step *st = context;
    const trit_session *s = st->s;
    head_unit u = unit_of(st, item);
    int64_t low[HEAD_UNIT_ROWS][HEAD_UNIT];
    for (size_t row = 0; row < st->n_undecided; row += HEAD_UNIT_ROWS) {
        size_t left = st->n_undecided - row, n_rows = left < HEAD_UNIT_ROWS ? left : (size_t)HEAD_UNIT_ROWS;
        multiply_plane(st, st->model->head.lo, u, row, n_rows, low[0], HEAD_UNIT);
        for (size_t r = 0; r < n_rows; r++) {
            size_t of = (size_t)s->undecided[row + r];
            write_logits(st, u, of, s->dots + (of - st->n_whole) * s->dots_stride + u.first, low[r]);
        }
    }
}

/* ---- sampling --------------------------------------------------------------------------------------------------- */

/* From the bounds of a screened row, or from exact logits. */
static void sample(head_step *st, size_t at, const trit_screen *screen, size_t thread)
{
    const trit_session *s = st->s;
    const trit_output *output = &st->batch->outputs[at];
    const float *logits = s->logits + (size_t)s->logits_of[at] * s->vocab_stride;
    trit_sampler_scratch *scratch = &s->samplers[thread];
    s->sampled[at] =
        (int32_t)trit_sampler_choose(st->ops, logits, screen, (size_t)st->model->arch.vocab, &output->sampling,
                                     output->target, output->n_top, &st->choices[at], scratch);
    s->finished[at] = (int32_t)scratch->n_finished;
}

static void sample_output(void *context, size_t item, size_t thread)
{
    head_step *st = context;
    size_t row = (size_t)st->s->logits_of[item];
    if (row < st->n_whole) {
        sample(st, item, NULL, thread);
    } else {
        trit_screen screen = screen_of(st, row);
        sample(st, item, &screen, thread);
    }
}

static void sample_undecided(void *context, size_t item, size_t thread)
{
    head_step *st = context;
    if (st->s->sampled[item] == TRIT_SAMPLED_UNDECIDED)
        sample(st, item, NULL, thread);
}

/* Rows with an output that the bounds did not decide, ascending, and their hidden rows moved to the front. */
static void gather_undecided(head_step *st)
{
    trit_session *s = st->s;
    size_t width = head_width(st), n_outputs = (size_t)st->batch->n_outputs;
    for (size_t item = st->n_whole; item < st->n_logit_rows; item++) {
        int undecided = 0;
        for (size_t i = 0; i < n_outputs; i++)
            undecided |= (size_t)s->logits_of[i] == item && s->sampled[i] == TRIT_SAMPLED_UNDECIDED;
        if (!undecided)
            continue;
        size_t to = st->n_undecided * width, from = item * width;
        memmove(s->h + to, s->h + from, width * sizeof *s->h);
        memmove(s->h_hi + to, s->h_hi + from, width);
        memmove(s->h_lo + to, s->h_lo + from, width);
        s->undecided[st->n_undecided++] = (int32_t)item;
    }
}

static void count_head(head_step *st)
{
    trit_session_stats *stats = &st->s->stats;
    uint64_t plane = st->model->head_bytes / 2, finished = 0;
    for (int32_t i = 0; i < st->batch->n_outputs; i++)
        finished += (uint64_t)st->s->finished[i];
    stats->head_rows += st->n_logit_rows;
    stats->screened_rows += st->n_logit_rows - st->n_whole;
    stats->undecided_rows += st->n_undecided;
    stats->finished_panels += finished;
    stats->head_bytes += plane + (st->n_whole > 0 ? plane : 0) + (st->n_undecided > 0 ? plane : 0) +
                         finished * st->model->head.groups * 64;
}

/* ---- the stage -------------------------------------------------------------------------------------------------- */

trit_status trit_choose_tokens(trit_session *s, const trit_batch *batch, trit_choice *choices, float *logits,
                               trit_error *err)
{
    head_step of_batch = {.s = s, .model = s->model, .ops = s->model->kernels.rows, .batch = batch, .choices = choices};
    head_step *st = &of_batch;
    size_t n_outputs = (size_t)batch->n_outputs, vocab = (size_t)st->model->arch.vocab;
    size_t units = (st->model->head.n_panels + HEAD_UNIT_PANELS - 1) / HEAD_UNIT_PANELS;
    list_logit_rows(st, logits);
    trit_pool_run(s->pool, final_row, st, st->n_logit_rows, s->n_threads);
    trit_pool_run(s->pool, high_unit, st, units, s->n_threads);
    for (size_t i = 0; logits != NULL && i < n_outputs; i++)
        memcpy(logits + i * vocab, s->logits + (size_t)s->logits_of[i] * s->vocab_stride, vocab * sizeof *logits);
    trit_pool_run(s->pool, sample_output, st, n_outputs, s->n_samplers);
    gather_undecided(st);
    count_head(st);
    if (st->n_undecided > 0) {
        trit_pool_run(s->pool, low_unit, st, units, s->n_threads);
        trit_pool_run(s->pool, sample_undecided, st, n_outputs, s->n_samplers);
    }
    for (size_t i = 0; i < n_outputs; i++)
        if (s->sampled[i] == TRIT_SAMPLED_MASK_LATE)
            return trit_fail(err, TRIT_ERR_STATE, "output %zu: the mask did not become ready", i);
    return TRIT_OK;
}
