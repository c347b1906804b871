/* linear.c - see linear.h. */
#include "linear.h"
#include "mem.h"

/* Rows that are "few": one register tile of vectors, and less than half a tile of AMX. Any choice gives the same bits. */
enum { FEW_MAX_ROWS = 6, MAX_UNIT_PANELS = 16, UNITS_PER_THREAD = 6 };

typedef struct work {
    trit_session *session;
    const trit_linear_job *jobs;
    size_t n_jobs, n_rows;
    size_t unit_panels;
    size_t first_unit[4]; /* of each job, and the end */
} work;

size_t trit_linear_x_stride(const trit_linear *linear)
{
    return trit_round_up(linear->k, TRIT_INPUTS_STEP);
}

static trit_ternary_fn *kernel_of_rows(const trit_kernels *k, size_t n_rows)
{
    return n_rows <= FEW_MAX_ROWS ? k->few : k->gemm;
}

/* Several rows of a dense linear: each panel is expanded once and multiplied like any other, as if it were the only one. */
static void run_dense_panels(const trit_session *s, const trit_linear_job *job, const float *row_scale, size_t n_rows,
                             size_t panel0, size_t panel1, uint8_t *expanded)
{
    const trit_linear *linear = job->linear;
    const trit_kernels *k = &s->model->kernels;
    trit_ternary_fn *kernel = kernel_of_rows(k, n_rows);
    for (size_t panel = panel0; panel < panel1; panel++) {
        k->expand(linear->w + panel * trit_dense_vectors(linear->groups) * 64, linear->groups, expanded);
        kernel(s->x_q, trit_linear_x_stride(linear), s->x_sum, n_rows, expanded, linear->groups, 0, 1,
               linear->n - panel * TRIT_PANEL, row_scale, job->y + panel * TRIT_PANEL, job->y_stride);
    }
}

static void run_unit(void *context, size_t item, size_t thread)
{
    const work *w = context;
    const trit_session *s = w->session;
    size_t job = 0;
    while (item >= w->first_unit[job + 1])
        job++;
    const trit_linear *linear = w->jobs[job].linear;
    size_t panel0 = (item - w->first_unit[job]) * w->unit_panels;
    size_t panel1 = panel0 + w->unit_panels < linear->n_panels ? panel0 + w->unit_panels : linear->n_panels;
    const float *row_scale = s->row_scale + job * (size_t)s->options.max_rows;
    const trit_kernels *k = &s->model->kernels;
    if (linear->layout == TRIT_LAYOUT_T2_ROWS) {
        size_t n1 = panel1 * TRIT_PANEL < linear->n ? panel1 * TRIT_PANEL : linear->n;
        k->up_rows(s->x_q, trit_linear_x_stride(linear), s->x_sum, w->n_rows, linear->w, linear->stride_bytes,
                   panel0 * TRIT_PANEL, n1, row_scale, NULL, w->jobs[job].y, w->jobs[job].y_stride);
        return;
    }
    int dense = linear->layout == TRIT_LAYOUT_T5_P64G4;
    if (dense && w->n_rows > 1) {
        run_dense_panels(s, &w->jobs[job], row_scale, w->n_rows, panel0, panel1, s->threads[thread].panel);
        return;
    }
    trit_ternary_fn *kernel = dense ? k->gemv_dense : w->n_rows == 1 ? k->gemv : kernel_of_rows(k, w->n_rows);
    kernel(s->x_q, trit_linear_x_stride(linear), s->x_sum, w->n_rows, linear->w, linear->groups, panel0, panel1,
           linear->n, row_scale, w->jobs[job].y, w->jobs[job].y_stride);
}

/* Even, so that a kernel may take two panels at once; small enough that threads of unequal speed end together. */
static size_t choose_unit(const trit_linear_job *jobs, size_t n_jobs, size_t n_threads)
{
    size_t panels = 0;
    for (size_t job = 0; job < n_jobs; job++)
        panels += jobs[job].linear->n_panels;
    size_t unit = trit_round_up(panels / (n_threads * UNITS_PER_THREAD) + 1, 2);
    return unit < MAX_UNIT_PANELS ? unit : (size_t)MAX_UNIT_PANELS;
}

void trit_linear_run(trit_session *s, const trit_linear_job *jobs, size_t n_jobs, size_t n_rows)
{
    work w = {.session = s, .jobs = jobs, .n_jobs = n_jobs, .n_rows = n_rows};
    w.unit_panels = choose_unit(jobs, n_jobs, s->n_threads);
    for (size_t job = 0; job < n_jobs; job++) {
        size_t units = (jobs[job].linear->n_panels + w.unit_panels - 1) / w.unit_panels;
        w.first_unit[job + 1] = w.first_unit[job] + units;
        float *row_scale = s->row_scale + job * (size_t)s->options.max_rows;
        for (size_t row = 0; row < n_rows; row++)
            row_scale[row] = jobs[job].linear->scale * s->x_scale[row];
    }
    trit_pool_run(s->pool, run_unit, &w, w.first_unit[n_jobs], s->n_threads);
}
