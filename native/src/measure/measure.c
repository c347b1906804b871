/* measure.c - see measure.h. */
#include "measure/measure.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "ffn.h"
#include "linear.h"
#include "measure/int8.h"
#include "mem.h"
#include "status.h"

/* ---- int8 ------------------------------------------------------------------------------------------------------- */

typedef struct int8_job {
    trit_int8_loop_fn *loop;
    double seconds;
    int n_threads;
    atomic_int arrived;
    double *rates; /* (n_threads) */
} int8_job;

static void int8_item(void *context, size_t item, size_t thread)
{
    (void)thread;
    int8_job *job = context;
    /* As many items as threads, and none goes on before all are taken: each thread has one. */
    atomic_fetch_add(&job->arrived, 1);
    while (atomic_load(&job->arrived) < job->n_threads)
        (void)sched_yield();
    int32_t sink = 0;
    uint64_t ops = 0, rounds = 64;
    double start = trit_now_seconds(), elapsed = 0.0;
    while (elapsed < job->seconds) {
        ops += job->loop(rounds, &sink);
        elapsed = trit_now_seconds() - start;
        if (elapsed < job->seconds / 50.0)
            rounds *= 2;
    }
    job->rates[item] = (double)ops / elapsed;
    if (sink == INT32_MIN) /* hardly ever; the sum must be used */
        job->rates[item] *= 1.0 + 1e-12;
}

trit_status trit_int8_rate(trit_isa isa, int32_t n_threads, double seconds, double *ops_per_second, trit_error *err)
{
    trit_pool *pool = NULL;
    int8_job job = {.loop = trit_int8_loop_of(isa), .seconds = seconds, .n_threads = n_threads};
    job.rates = trit_alloc((size_t)n_threads, sizeof *job.rates);
    if (job.rates == NULL)
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory for %d rates", n_threads);
    trit_status status = trit_pool_create(&pool, n_threads, err);
    if (status == TRIT_OK) {
        double sum = 0.0;
        trit_pool_run(pool, int8_item, &job, (size_t)n_threads, (size_t)n_threads);
        for (int32_t i = 0; i < n_threads; i++)
            sum += job.rates[i];
        *ops_per_second = sum;
    }
    trit_pool_destroy(&pool);
    trit_free(job.rates);
    return status;
}

/* ---- the model's linears ---------------------------------------------------------------------------------------- */

static void run_all_linears(trit_session *s, size_t rows)
{
    for (int32_t at = 0; at < s->model->arch.n_layers; at++) {
        const trit_linear *linears = s->model->layers[at].linears;
        const trit_linear_job qkv[] = {{&linears[TRIT_T_Q], s->q, s->query_stride},
                                       {&linears[TRIT_T_K], s->k, s->kv_stride},
                                       {&linears[TRIT_T_V], s->v, s->kv_stride}};
        const trit_linear_job o = {&linears[TRIT_T_O], s->y, s->hidden_stride};
        const trit_linear_job gate_up[] = {{&linears[TRIT_T_GATE], s->gate, s->ffn_stride},
                                           {&linears[TRIT_T_UP], s->up, s->ffn_stride}};
        trit_linear_run(s, qkv, 3, rows);
        trit_linear_run(s, &o, 1, rows);
        trit_linear_run(s, gate_up, 2, rows);
        for (size_t row = 0; row < rows; row++)
            trit_ffn_list_inputs(s, &linears[TRIT_T_DOWN], row, rows);
        trit_ffn_down(s, &linears[TRIT_T_DOWN], rows);
    }
}

double trit_linears_seconds(trit_session *s, size_t rows, int32_t repeats)
{
    size_t widest = 0;
    for (int kind = TRIT_T_Q; kind <= TRIT_T_DOWN; kind++) {
        size_t stride = trit_linear_x_stride(&s->model->layers[0].linears[kind]);
        widest = stride > widest ? stride : widest;
    }
    for (size_t i = 0; i < rows * widest; i++)
        s->x_q[i] = (int8_t)((i * 37 + i / 64 * 11) % 255) - 127;
    for (size_t row = 0; row < rows; row++) {
        s->x_scale[row] = 1.0f;
        s->x_sum[row] = 0; /* no one looks at the results */
    }
    double best = 0.0;
    for (int32_t i = 0; i <= repeats; i++) { /* the first warms up */
        double start = trit_now_seconds();
        run_all_linears(s, rows);
        double seconds = trit_now_seconds() - start;
        best = i == 1 || (i > 1 && seconds < best) ? seconds : best;
    }
    return best;
}
