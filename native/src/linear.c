/* linear.c - see linear.h. */
#include "linear.h"
#include "mem.h"

/* Rows that are "few": one register tile of vectors, and less than half a tile of AMX. Any choice gives the same bits. */
enum { FEW_MAX_ROWS = 6 };

/*
 * A unit is UNIT_ROWS rows (whole tiles of every kernel; with 2,560 inputs half of a second-level cache) x as many panels as make
 * UNIT_BYTES of weights, counted once per row, and at least three units per thread. All of a batch-1 step's linears in 24.9 ms with a
 * twelfth of the panels a unit, whatever their size, 25.1 with 64 KiB, 24.6 with 128, 23.9 with 256, 24.2 with 512 (2B4T's shape, two
 * threads, AMD EPYC, Zen 3): short units break the streams up, long ones let a thread wait at the end.
 */
enum { UNIT_ROWS = 96, ROW_STEP = 16, UNIT_BYTES = 256 << 10, MAX_UNIT_PANELS = 16, UNITS_PER_THREAD = 3 };

typedef struct work {
    trit_session *session;
    const trit_linear_job *jobs;
    size_t n_jobs, n_rows;
    size_t unit_rows, unit_panels, row_blocks;
    size_t first_unit[4]; /* of each job, and the end; within a job by blocks of rows, then panels */
} work;

/* A unit's part of a job; x, x_sum, row_scale and y at its first row. */
typedef struct part {
    const trit_linear *linear;
    size_t n_rows, panel0, panel1;
    const int8_t *x;
    size_t x_stride;
    const int32_t *x_sum;
    const float *row_scale;
    float *y;
    size_t y_stride;
} part;

size_t trit_linear_x_stride(const trit_linear *linear)
{
    return trit_round_up(linear->k, TRIT_INPUTS_STEP);
}

trit_ternary_fn *trit_linear_kernel(const trit_kernels *k, size_t n_rows)
{
    return n_rows <= FEW_MAX_ROWS ? k->few : k->gemm;
}

/* Several rows of a dense linear: each panel is expanded once and multiplied like any other, as if it were the only one. */
static void run_dense_panels(const trit_kernels *k, const part *p, uint8_t *expanded)
{
    const trit_linear *linear = p->linear;
    trit_ternary_fn *kernel = trit_linear_kernel(k, p->n_rows);
    for (size_t panel = p->panel0; panel < p->panel1; panel++) {
        k->expand(linear->w + panel * trit_dense_vectors(linear->groups) * 64, linear->groups, expanded);
        kernel(p->x, p->x_stride, p->x_sum, p->n_rows, expanded, linear->groups, 0, 1, linear->n - panel * TRIT_PANEL,
               p->row_scale, p->y + panel * TRIT_PANEL, p->y_stride);
    }
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t panel_units(const work *w, const trit_linear *linear)
{
    return (linear->n_panels + w->unit_panels - 1) / w->unit_panels;
}

static part part_of_unit(const work *w, size_t item)
{
    const trit_session *s = w->session;
    size_t job = 0;
    while (item >= w->first_unit[job + 1])
        job++;
    const trit_linear *linear = w->jobs[job].linear;
    size_t unit = item - w->first_unit[job], units = panel_units(w, linear);
    size_t row0 = unit / units * w->unit_rows, panel0 = unit % units * w->unit_panels;
    size_t x_stride = trit_linear_x_stride(linear), y_stride = w->jobs[job].y_stride;
    return (part){.linear = linear,
                  .n_rows = smaller(w->unit_rows, w->n_rows - row0),
                  .panel0 = panel0,
                  .panel1 = smaller(panel0 + w->unit_panels, linear->n_panels),
                  .x = s->x_q + row0 * x_stride,
                  .x_stride = x_stride,
                  .x_sum = s->x_sum + row0,
                  .row_scale = s->row_scale + job * (size_t)s->options.max_rows + row0,
                  .y = w->jobs[job].y + row0 * y_stride,
                  .y_stride = y_stride};
}

static void run_unit(void *context, size_t item, size_t thread)
{
    const work *w = context;
    const trit_session *s = w->session;
    const trit_kernels *k = &s->model->kernels;
    const part p = part_of_unit(w, item);
    if (p.linear->layout == TRIT_LAYOUT_T2_ROWS) {
        k->up_rows(p.x, p.x_stride, p.x_sum, p.n_rows, p.linear->w, p.linear->stride_bytes, p.panel0 * TRIT_PANEL,
                   smaller(p.panel1 * TRIT_PANEL, p.linear->n), p.row_scale, NULL, p.y, p.y_stride);
        return;
    }
    int dense = p.linear->layout == TRIT_LAYOUT_T5_P64G4;
    if (dense && p.n_rows > 1) {
        run_dense_panels(k, &p, s->threads[thread].panel);
        return;
    }
    trit_ternary_fn *kernel = dense ? k->gemv_dense : p.n_rows == 1 ? k->gemv : trit_linear_kernel(k, p.n_rows);
    kernel(p.x, p.x_stride, p.x_sum, p.n_rows, p.linear->w, p.linear->groups, p.panel0, p.panel1, p.linear->n,
           p.row_scale, p.y, p.y_stride);
}

static void choose_units(work *w, size_t n_threads)
{
    size_t panels = 0, panel_bytes = trit_linear_x_stride(w->jobs[0].linear) * TRIT_PANEL / 4;
    for (size_t job = 0; job < w->n_jobs; job++)
        panels += w->jobs[job].linear->n_panels;
    size_t blocks = (w->n_rows + UNIT_ROWS - 1) / UNIT_ROWS, wanted = UNITS_PER_THREAD * n_threads / panels + 1;
    blocks = blocks > wanted ? blocks : wanted; /* panels are few: split the rows further */
    w->unit_rows = smaller(trit_round_up((w->n_rows + blocks - 1) / blocks, ROW_STEP), w->n_rows);
    w->row_blocks = (w->n_rows + w->unit_rows - 1) / w->unit_rows;
    size_t most = smaller(panels / (UNITS_PER_THREAD * n_threads) + 1, MAX_UNIT_PANELS);
    w->unit_panels = smaller(UNIT_BYTES / (panel_bytes * w->unit_rows) + 1, most);
}

void trit_linear_run(trit_session *s, const trit_linear_job *jobs, size_t n_jobs, size_t n_rows)
{
    work w = {.session = s, .jobs = jobs, .n_jobs = n_jobs, .n_rows = n_rows};
    choose_units(&w, s->n_threads);
    for (size_t job = 0; job < n_jobs; job++) {
        w.first_unit[job + 1] = w.first_unit[job] + w.row_blocks * panel_units(&w, jobs[job].linear);
        float *row_scale = s->row_scale + job * (size_t)s->options.max_rows;
        for (size_t row = 0; row < n_rows; row++)
            row_scale[row] = jobs[job].linear->scale * s->x_scale[row];
    }
    trit_pool_run(s->pool, run_unit, &w, w.first_unit[n_jobs], s->n_threads);
}
