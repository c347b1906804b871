/* calibrate.c - see calibrate.h. */
#include "measure/calibrate.h"

#include <time.h>

#include "compiler.h"
#include "mem.h"
#include "status.h"

/* Weights of one call: more than a first-level cache, so that the reading counts, and some 70 us at 15 GB/s. */
enum { WEIGHT_BYTES = 1 << 20, FEW_ROWS = 4, GEMM_ROWS = 64, QUERIES = 32, ATTENTION_CALLS = 8 };
enum { BLOCKS = TRIT_CHUNK_TOKENS / TRIT_BLOCK_TOKENS };

static double now_seconds(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- choosing --------------------------------------------------------------------------------------------------- */

size_t trit_calibrate_choose(trit_time_fn *time, void *context, size_t n, double *best)
{
    double spent = 0.0;
    for (int round = 0; round < TRIT_CALIBRATE_ROUNDS && (round == 0 || spent < TRIT_CALIBRATE_SECONDS); round++)
        for (size_t i = 0; i < n; i++) {
            double seconds = time(context, i);
            spent += seconds;
            best[i] = round == 0 || seconds < best[i] ? seconds : best[i];
        }
    size_t chosen = 0;
    for (size_t i = 1; i < n; i++)
        chosen = best[i] < best[chosen] ? i : chosen;
    double fastest = best[chosen];
    for (size_t i = chosen + 1; i < n; i++)
        chosen = best[i] <= fastest * 1.03 ? i : chosen;
    return chosen;
}

/* ---- the work that is timed ------------------------------------------------------------------------------------- */

/* All zeros: no kernel's time depends on values. */
typedef struct bench {
    size_t groups, x_stride, head_dim, q_stride;
    uint8_t *w;    /* (WEIGHT_BYTES, or a panel) */
    size_t bytes;  /* of w */
    int8_t *x;     /* (GEMM_ROWS, x_stride) and h_hi, h_lo */
    int16_t *h;    /* (x_stride), q and a (QUERIES, 256) */
    int32_t *sums; /* x_sum (GEMM_ROWS), dots and acc (QUERIES, 256) */
    float *scales; /* (GEMM_ROWS) */
    void *y;       /* float (GEMM_ROWS, outputs) or int64 (vocabulary rows) */
    trit_op op;
    trit_kernel candidates[TRIT_ISA_COUNT];
} bench;

static void call(const bench *b, const trit_kernel *kernel)
{
    size_t panels = b->bytes / (b->groups * 64), outputs = panels * TRIT_PANEL;
    const void *blocks[BLOCKS] = {b->w, b->w, b->w, b->w};
    const int16_t *words[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++)
        words[i] = blocks[i];
    size_t rows = b->op == TRIT_OP_gemv ? 1 : b->op == TRIT_OP_few ? (size_t)FEW_ROWS : (size_t)GEMM_ROWS;
    switch (b->op) {
    case TRIT_OP_gemv:
    case TRIT_OP_few:
    case TRIT_OP_gemm:
        ((trit_ternary_fn *)kernel->function)(b->x, b->x_stride, b->sums, rows, b->w, b->groups, 0, panels, outputs,
                                              b->scales, b->y, outputs);
        return;
    case TRIT_OP_head:
        ((trit_head_fn *)kernel->function)(b->h, b->x, b->x, b->x_stride, 1, (const int8_t *)b->w, b->groups, 0, panels,
                                           b->y, panels * TRIT_HEAD_PANEL);
        return;
    case TRIT_OP_qk:
        for (int i = 0; i < ATTENTION_CALLS; i++)
            ((trit_qk_fn *)kernel->function)(b->h, b->q_stride, QUERIES, words, BLOCKS, b->head_dim, b->sums, blocks);
        return;
    case TRIT_OP_av:
        for (int i = 0; i < ATTENTION_CALLS; i++)
            ((trit_av_fn *)kernel->function)(b->h, QUERIES, words, BLOCKS, b->head_dim, b->sums,
                                             trit_round_up(b->head_dim, 16), blocks);
        return;
    default: return;
    }
}

static double time_call(void *context, size_t i)
{
    const bench *b = context;
    double start = now_seconds();
    call(b, &b->candidates[i]);
    return now_seconds() - start;
}

static void drop_bench(bench *b)
{
    trit_free(b->w);
    trit_free(b->x);
    trit_free(b->h);
    trit_free(b->sums);
    trit_free(b->scales);
    trit_free(b->y);
}

static int make_bench(bench *b, const trit_model *model)
{
    size_t inputs = trit_round_up((size_t)model->arch.hidden, 64), head_dim = (size_t)model->arch.head_dim;
    size_t panel = inputs / TRIT_GROUP * 64, panels = WEIGHT_BYTES / panel > 0 ? WEIGHT_BYTES / panel : 1;
    size_t block = head_dim * TRIT_BLOCK_TOKENS * sizeof(int16_t);
    size_t widest = inputs > (size_t)QUERIES * 256 ? inputs : (size_t)QUERIES * 256;
    *b = (bench){.groups = inputs / TRIT_GROUP,
                 .x_stride = inputs,
                 .head_dim = head_dim,
                 .q_stride = trit_round_up(head_dim, 32),
                 .bytes = panels * panel};
    b->w = trit_alloc(b->bytes > block ? b->bytes : block, 1);
    b->x = trit_alloc(GEMM_ROWS * inputs, sizeof *b->x);
    b->h = trit_alloc(widest, sizeof *b->h);
    b->sums = trit_alloc((size_t)QUERIES * 256, sizeof *b->sums);
    b->scales = trit_alloc(GEMM_ROWS, sizeof *b->scales);
    b->y = trit_alloc(GEMM_ROWS * panels * TRIT_PANEL, sizeof(float));
    return b->w != NULL && b->x != NULL && b->h != NULL && b->sums != NULL && b->scales != NULL && b->y != NULL;
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

static const trit_op ops[] = {TRIT_OP_gemv, TRIT_OP_few, TRIT_OP_gemm, TRIT_OP_head, TRIT_OP_qk, TRIT_OP_av};
enum { N_OPS = sizeof ops / sizeof ops[0] };
_Static_assert(N_OPS *TRIT_ISA_COUNT <= TRIT_MAX_TIMINGS, "every kernel has room for its time");

/* A kernel of gemm takes few rows as well. */
static size_t candidates_of(trit_op op, trit_kernel out[TRIT_ISA_COUNT])
{
    return trit_kernels_candidates(op == TRIT_OP_few ? TRIT_OP_gemm : op, out);
}

trit_status trit_calibrate_among(trit_model *model, trit_candidates_fn *candidates, trit_error *err)
{
    bench b;
    size_t most = 0;
    for (size_t i = 0; i < N_OPS; i++) {
        size_t n = candidates(ops[i], b.candidates);
        most = n > most ? n : most;
    }
    model->n_timings = 0;
    if (most < 2)
        return TRIT_OK;
    trit_status status = TRIT_OK;
    uint64_t mode = trit_float_mode_enter();
    if (!make_bench(&b, model))
        status = trit_fail(err, TRIT_ERR_MEMORY, "no memory to time kernels in (%zu bytes of weights)", b.bytes);
    for (size_t i = 0; status == TRIT_OK && i < N_OPS; i++) {
        double best[TRIT_ISA_COUNT];
        size_t n = candidates(ops[i], b.candidates);
        if (n < 2)
            continue;
        b.op = ops[i];
        size_t chosen = trit_calibrate_choose(time_call, &b, n, best);
        for (size_t c = 0; c < n; c++)
            model->timings[model->n_timings++] =
                (trit_timing){(int32_t)b.op, c == chosen, best[c], b.candidates[c].name};
        trit_kernels_use(&model->kernels, b.op, &b.candidates[chosen]);
    }
    trit_float_mode_leave(mode);
    drop_bench(&b);
    return status;
}

trit_status trit_calibrate(trit_model *model, trit_error *err)
{
    return trit_calibrate_among(model, candidates_of, err);
}
