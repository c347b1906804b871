/* session.c - see session.h. */
#include <string.h>

#include "ffn.h"
#include "linear.h"
#include "mem.h"
#include "session.h"
#include "status.h"

enum { MAX_ROWS = 1 << 16, FLOAT_STEP = TRIT_ALIGN / sizeof(float) };

static trit_status check_options(const trit_session_options *o, trit_error *err)
{
    const struct {
        const char *name;
        int32_t value, most;
    } rules[] = {{"n_threads", o->n_threads, TRIT_MAX_THREADS},
                 {"max_rows", o->max_rows, MAX_ROWS},
                 {"max_seqs", o->max_seqs, MAX_ROWS},
                 {"max_outputs", o->max_outputs, MAX_ROWS}};
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (rules[i].value < 1 || rules[i].value > rules[i].most)
            return trit_fail(err, TRIT_ERR_ARGUMENT, "options: %s is %d, expected 1 to %d", rules[i].name,
                             rules[i].value, rules[i].most);
    return TRIT_OK;
}

static size_t widest_input(const trit_arch *arch)
{
    size_t hidden = (size_t)arch->hidden, ffn = (size_t)arch->intermediate;
    size_t query = (size_t)arch->n_heads * (size_t)arch->head_dim;
    size_t widest = hidden > ffn ? hidden : ffn;
    return trit_round_up(widest > query ? widest : query, TRIT_INPUTS_STEP);
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/*
 * Every array of the session, so that all are allocated and freed in one way. The factors are bounded (rows by 2^16, widths by 2^17, vocab
 * by 2^24): count * bytes stays far below 2^63, and trit_alloc checks it again.
 */
typedef struct allocation {
    void *place; /* address of a pointer in the session */
    size_t count, element_bytes;
} allocation;

static void list_arrays(trit_session *s, allocation list[TRIT_SESSION_ARRAYS])
{
    const trit_arch *arch = &s->model->arch;
    size_t rows = (size_t)s->options.max_rows, outputs = (size_t)s->options.max_outputs;
    size_t h_width = trit_round_up((size_t)arch->hidden, 64);
    const allocation arrays[TRIT_SESSION_ARRAYS] = {
        {&s->threads, s->n_threads, sizeof *s->threads},
        {&s->samplers, s->n_samplers, sizeof *s->samplers},
        {&s->x, rows * s->hidden_stride, sizeof *s->x},
        {&s->y, rows * s->hidden_stride, sizeof *s->y},
        {&s->q, rows * s->query_stride, sizeof *s->q},
        {&s->attn, rows * s->query_stride, sizeof *s->attn},
        {&s->k, rows * s->kv_stride, sizeof *s->k},
        {&s->v, rows * s->kv_stride, sizeof *s->v},
        {&s->gate, rows * s->ffn_stride, sizeof *s->gate},
        {&s->up, rows * s->ffn_stride, sizeof *s->up},
        {&s->x_q, rows * widest_input(arch), sizeof *s->x_q},
        {&s->x_scale, rows, sizeof *s->x_scale},
        {&s->x_sum, rows, sizeof *s->x_sum},
        {&s->x_zeros, rows, sizeof *s->x_zeros},
        {&s->row_scale, 3 * rows, sizeof *s->row_scale},
        {&s->n_inputs, rows, sizeof *s->n_inputs},
        {&s->down_sums, s->n_threads * TRIT_DOWN_FEW_ROWS * s->down_stride, sizeof *s->down_sums},
        {&s->output_rows, outputs, sizeof *s->output_rows},
        {&s->logits_of, outputs, sizeof *s->logits_of},
        {&s->h, outputs * h_width, sizeof *s->h},
        {&s->h_hi, outputs * h_width, sizeof *s->h_hi},
        {&s->h_lo, outputs * h_width, sizeof *s->h_lo},
        {&s->h_scale, outputs, sizeof *s->h_scale},
        {&s->slack, outputs, sizeof *s->slack},
        {&s->logits, outputs * s->vocab_stride, sizeof *s->logits},
        {&s->dots, s->max_screened * s->dots_stride, sizeof *s->dots},
        {&s->sampled, outputs, sizeof *s->sampled},
        {&s->finished, outputs, sizeof *s->finished},
        {&s->undecided, outputs, sizeof *s->undecided},
        {&s->writers, s->kv->n_blocks, sizeof *s->writers},
    };
    memcpy(list, arrays, sizeof arrays);
}

static trit_status allocate(trit_session *s, trit_error *err)
{
    allocation arrays[TRIT_SESSION_ARRAYS];
    list_arrays(s, arrays);
    for (size_t i = 0; i < TRIT_SESSION_ARRAYS; i++) {
        void *memory = trit_alloc(arrays[i].count, arrays[i].element_bytes);
        if (memory == NULL)
            return trit_fail(err, TRIT_ERR_MEMORY, "no memory for a session's array %zu: %zu elements of %zu bytes", i,
                             arrays[i].count, arrays[i].element_bytes);
        s->arrays[i] = memory;
        memcpy(arrays[i].place, &memory,
               sizeof memory); /* object pointers of any type look alike on every POSIX system */
    }
    trit_status status =
        trit_attention_plan_create(&s->plan, &s->model->arch, (size_t)s->options.max_rows, s->n_threads, err);
    if (status != TRIT_OK)
        return status;
    for (size_t i = 0; i < s->n_threads; i++) {
        s->threads[i].row = trit_alloc(widest_input(&s->model->arch), sizeof(float));
        if (s->threads[i].row == NULL)
            return trit_fail(err, TRIT_ERR_MEMORY, "no memory for the scratch row of thread %zu", i);
        if (s->model->widest_dense != 0) {
            s->threads[i].panel = trit_alloc(s->model->widest_dense, 64);
            if (s->threads[i].panel == NULL)
                return trit_fail(err, TRIT_ERR_MEMORY, "no memory for an expanded panel of thread %zu", i);
        }
        status = trit_attention_scratch_create(&s->threads[i].attention, &s->model->arch, err);
        if (status != TRIT_OK)
            return status;
    }
    for (size_t i = 0; i < s->n_samplers; i++) {
        status = trit_sampler_scratch_create(&s->samplers[i], (size_t)s->model->arch.vocab, err);
        if (status != TRIT_OK)
            return status;
    }
    return TRIT_OK;
}

trit_status trit_session_build(trit_session **out, const trit_model *model, trit_kv *kv,
                               const trit_session_options *options, trit_error *err)
{
    trit_status status = check_options(options, err);
    if (status != TRIT_OK)
        return status;
    if (kv->fingerprint != model->fingerprint)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "the KV pool belongs to model %016llx, this model is %016llx",
                         (unsigned long long)kv->fingerprint, (unsigned long long)model->fingerprint);
    trit_session *s = trit_alloc(1, sizeof *s);
    if (s == NULL)
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory for a session handle");
    const trit_arch *arch = &model->arch;
    s->model = model;
    s->kv = kv;
    s->options = *options;
    s->n_threads = (size_t)options->n_threads;
    s->n_samplers = smaller(s->n_threads, (size_t)options->max_outputs);
    s->hidden_stride = trit_round_up((size_t)arch->hidden, FLOAT_STEP);
    s->query_stride = trit_round_up((size_t)arch->n_heads * (size_t)arch->head_dim, FLOAT_STEP);
    s->kv_stride = trit_round_up((size_t)arch->n_kv_heads * (size_t)arch->head_dim, FLOAT_STEP);
    s->ffn_stride = trit_round_up((size_t)arch->intermediate, FLOAT_STEP);
    s->down_stride = trit_round_up((size_t)arch->hidden, TRIT_PANEL);
    s->vocab_stride = trit_round_up((size_t)arch->vocab, FLOAT_STEP);
    s->max_screened = smaller((size_t)options->max_outputs, (size_t)options->max_seqs);
    s->dots_stride = model->head.n_panels * TRIT_HEAD_PANEL;
    if ((status = allocate(s, err)) != TRIT_OK ||
        (status = trit_pool_create(&s->pool, options->n_threads, err)) != TRIT_OK) {
        trit_session_tear_down(s);
        return status;
    }
    *out = s;
    return TRIT_OK;
}

void trit_session_tear_down(trit_session *s)
{
    if (s == NULL)
        return;
    trit_pool_destroy(&s->pool);
    for (size_t i = 0; s->samplers != NULL && i < s->n_samplers; i++)
        trit_sampler_scratch_destroy(&s->samplers[i]);
    for (size_t i = 0; s->threads != NULL && i < s->n_threads; i++) {
        trit_attention_scratch_destroy(&s->threads[i].attention);
        trit_free(s->threads[i].row);
        trit_free(s->threads[i].panel);
    }
    trit_attention_plan_destroy(&s->plan);
    for (size_t i = TRIT_SESSION_ARRAYS; i-- > 0;)
        trit_free(s->arrays[i]);
    trit_free(s);
}
