/* ffn.c - see ffn.h. */
#include "ffn.h"

#include <string.h>

#include "linear.h"
#include "mem.h"

enum {
    UNIT_ROWS = 96,
    INPUT_UNITS_PER_THREAD = 6,
    PANEL_UNITS_PER_THREAD = 16,
    MAX_UNIT_PANELS = 16,
    REDUCE_OUTPUTS = 1024,
    SERIAL_SUMS = 8
};

typedef struct ffn {
    trit_session *session;
    const trit_linear *gate, *up, *down;
    size_t n_rows, n_units, unit_panels, row_blocks;
} ffn;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void row_scales(const trit_session *s, size_t job, const trit_linear *linear, size_t n_rows)
{
    float *row_scale = s->row_scale + job * (size_t)s->options.max_rows;
    for (size_t row = 0; row < n_rows; row++)
        row_scale[row] = linear->scale * s->x_scale[row];
}

/* ---- units ------------------------------------------------------------------------------------------------------ */

/* A unit is up to UNIT_ROWS rows x an even number of panels: kernels take two at once. With one row 4 panels for gate and up of 2B4T and
 * two threads: 10, of which one thread had six and the other five, took 6 % longer (AMD EPYC, Zen 3, 2 cores). */
static size_t cut_units(ffn *f, const trit_linear *linear)
{
    size_t panels = linear->n_panels / (f->session->n_threads * PANEL_UNITS_PER_THREAD) + 1;
    f->unit_panels = smaller(trit_round_up(panels, 2), MAX_UNIT_PANELS);
    f->row_blocks = (f->n_rows + UNIT_ROWS - 1) / UNIT_ROWS;
    return f->row_blocks * ((linear->n_panels + f->unit_panels - 1) / f->unit_panels);
}

typedef struct part {
    size_t row0, n_rows, panel0, panel1;
} part;

static part part_of_unit(const ffn *f, const trit_linear *linear, size_t item)
{
    size_t row0 = item % f->row_blocks * UNIT_ROWS, panel0 = item / f->row_blocks * f->unit_panels;
    return (part){row0, smaller(f->n_rows - row0, UNIT_ROWS), panel0,
                  smaller(panel0 + f->unit_panels, linear->n_panels)};
}

/* ---- gate, up --------------------------------------------------------------------------------------------------- */

/* Rows of up that some gate of the part asks for; and how many gates in all do. */
static void count_open(const trit_session *s, const part *p, size_t n_outputs, size_t thread)
{
    uint8_t any[TRIT_PANEL];
    trit_ffn_counts *counts = &s->threads[thread].counts;
    for (size_t n = p->panel0 * TRIT_PANEL; n < n_outputs; n += TRIT_PANEL) {
        size_t width = smaller(TRIT_PANEL, n_outputs - n), open = 0, needed = 0;
        memset(any, 0, sizeof any);
        for (size_t row = p->row0; row < p->row0 + p->n_rows; row++) {
            const float *gate = s->gate + row * s->ffn_stride + n;
            for (size_t i = 0; i < width; i++) {
                uint8_t is_open = (uint8_t) !(gate[i] <= 0.0f);
                any[i] = (uint8_t)(any[i] | is_open);
                open += is_open;
            }
        }
        for (size_t i = 0; i < width; i++)
            needed += any[i];
        counts->gates_open += open;
        counts->up_rows_read += needed;
    }
}

/* Panels of gate, then those rows of up: the inputs and the gates are still in the first-level cache. */
static void gate_up_unit(void *context, size_t item, size_t thread)
{
    const ffn *f = context;
    const trit_session *s = f->session;
    const trit_kernels *k = &s->model->kernels;
    const part p = part_of_unit(f, f->gate, item);
    size_t stride = trit_linear_x_stride(f->gate), n1 = smaller(p.panel1 * TRIT_PANEL, f->up->n);
    const int8_t *x = s->x_q + p.row0 * stride;
    float *gate = s->gate + p.row0 * s->ffn_stride, *up = s->up + p.row0 * s->ffn_stride;
    const float *gate_scale = s->row_scale + p.row0, *up_scale = gate_scale + s->options.max_rows;
    trit_ternary_fn *kernel = p.n_rows == 1 ? k->gemv : trit_linear_kernel(k, p.n_rows);
    kernel(x, stride, s->x_sum + p.row0, p.n_rows, f->gate->w, f->gate->groups, p.panel0, p.panel1, f->gate->n,
           gate_scale, gate, s->ffn_stride);
    count_open(s, &p, n1, thread);
    k->up_rows(x, stride, s->x_sum + p.row0, p.n_rows, f->up->w, f->up->stride_bytes, p.panel0 * TRIT_PANEL, n1,
               up_scale, gate, up, s->ffn_stride);
}

static void clear_counts(trit_session *s)
{
    for (size_t i = 0; i < s->n_threads; i++)
        s->threads[i].counts = (trit_ffn_counts){0};
}

static int can_skip(const trit_session *s, const trit_linear *gate, const trit_linear *up)
{
    return !s->options.no_skip && gate->layout == TRIT_LAYOUT_T2_P64G4 && up->layout == TRIT_LAYOUT_T2_ROWS &&
           s->model->arch.activation == TRIT_ACT_RELU2;
}

void trit_ffn_gate_up(trit_session *s, const trit_layer *layer, size_t n_rows)
{
    const trit_linear *gate = &layer->linears[TRIT_T_GATE], *up = &layer->linears[TRIT_T_UP];
    s->stats.gates += n_rows * gate->n;
    if (!can_skip(s, gate, up)) {
        const trit_linear_job jobs[] = {{gate, s->gate, s->ffn_stride}, {up, s->up, s->ffn_stride}};
        trit_linear_run(s, jobs, 2, n_rows);
        return;
    }
    ffn f = {.session = s, .gate = gate, .up = up, .n_rows = n_rows};
    row_scales(s, 0, gate, n_rows);
    row_scales(s, 1, up, n_rows);
    clear_counts(s);
    size_t n_units = cut_units(&f, gate);
    trit_pool_run(s->pool, gate_up_unit, &f, n_units, s->n_threads);
    uint64_t open = 0, read = 0;
    for (size_t i = 0; i < s->n_threads; i++) {
        open += s->threads[i].counts.gates_open;
        read += s->threads[i].counts.up_rows_read;
    }
    s->stats.gates_closed += n_rows * gate->n - open;
    if (f.row_blocks == 1) /* else every row of up is as good as read */
        s->stats.bytes_skipped += (up->n - read) * up->stride_bytes;
}

/* ---- down: lists ------------------------------------------------------------------------------------------------ */

/* The gates of a row are not needed any more: (max_rows, ffn_stride) 32-bit numbers. */
static int32_t *inputs_of(const trit_session *s, size_t row)
{
    return (int32_t *)(void *)(s->gate + row * s->ffn_stride);
}

static uint32_t *pairs_of(const trit_session *s, size_t row)
{
    return (uint32_t *)(void *)(s->gate + row * s->ffn_stride);
}

static int32_t list_single(const int8_t *x, size_t k, int all, int32_t *inputs)
{
    int32_t n = 0;
    for (size_t i = 0; i < k; i++) {
        inputs[n] = (int32_t)i; /* written always, kept if not 0: no branch */
        n += all || x[i] != 0;
    }
    return n;
}

static int32_t list_pairs(const int8_t *x, size_t k, int all, uint32_t *pairs)
{
    int32_t n = 0;
    for (size_t i = 0; i < k; i += 2) {
        uint32_t two = (uint8_t)x[i] | (uint32_t)(uint8_t)x[i + 1] << 8;
        pairs[n] = (uint32_t)(i / 2) << 16 | two;
        n += all || two != 0;
    }
    return n;
}

void trit_ffn_list_inputs(trit_session *s, const trit_linear *down, size_t row, size_t n_rows)
{
    if (down->layout != TRIT_LAYOUT_T2_COLS)
        return;
    const int8_t *x = s->x_q + row * trit_linear_x_stride(down);
    s->n_inputs[row] = n_rows <= TRIT_DOWN_FEW_ROWS ? list_single(x, down->k, s->options.no_skip, inputs_of(s, row))
                                                    : list_pairs(x, down->k, s->options.no_skip, pairs_of(s, row));
}

/* ---- down: few rows --------------------------------------------------------------------------------------------- */

static int32_t *sums_of(const trit_session *s, size_t thread, size_t row)
{
    return s->down_sums + (thread * TRIT_DOWN_FEW_ROWS + row) * s->down_stride;
}

/* Place of the first that is not below `input`. */
static size_t lower_bound(const int32_t *inputs, size_t n, size_t input)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((size_t)inputs[middle] < input)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A range of inputs, of every row, into the thread's own sums. */
static void inputs_unit(void *context, size_t item, size_t thread)
{
    const ffn *f = context;
    const trit_session *s = f->session;
    size_t k = f->down->k, first = k * item / f->n_units, end = k * (item + 1) / f->n_units;
    for (size_t row = 0; row < f->n_rows; row++) {
        const int32_t *inputs = inputs_of(s, row);
        size_t n = (size_t)s->n_inputs[row], from = lower_bound(inputs, n, first), to = lower_bound(inputs, n, end);
        s->model->kernels.down_inputs(s->x_q + row * trit_linear_x_stride(f->down), inputs + from, to - from, 0,
                                      f->down->w, f->down->stride_bytes, sums_of(s, thread, row));
    }
    s->threads[thread].counts.has_sums = 1;
}

/* Integers: the order in which threads' sums are added does not matter. Leaves them zero. */
static void reduce_piece(void *context, size_t item, size_t thread)
{
    (void)thread;
    const ffn *f = context;
    const trit_session *s = f->session;
    size_t pieces = (f->down->n + REDUCE_OUTPUTS - 1) / REDUCE_OUTPUTS, row = item / pieces;
    size_t first = item % pieces * REDUCE_OUTPUTS, end = smaller(first + REDUCE_OUTPUTS, f->down->n);
    int32_t total[REDUCE_OUTPUTS];
    for (size_t n = first; n < end; n++)
        total[n - first] = -s->x_sum[row];
    for (size_t i = 0; i < s->n_threads; i++) {
        if (!s->threads[i].counts.has_sums)
            continue;
        int32_t *sums = sums_of(s, i, row);
        for (size_t n = first; n < end; n++) {
            total[n - first] += sums[n];
            sums[n] = 0;
        }
    }
    float *y = s->y + row * s->hidden_stride, row_scale = s->row_scale[row];
    for (size_t n = first; n < end; n++)
        y[n] = (float)total[n - first] * row_scale;
}

static void down_few(ffn *f)
{
    trit_session *s = f->session;
    f->n_units = s->n_threads * INPUT_UNITS_PER_THREAD;
    clear_counts(s);
    trit_pool_run(s->pool, inputs_unit, f, f->n_units, s->n_threads);
    size_t pieces = f->n_rows * ((f->down->n + REDUCE_OUTPUTS - 1) / REDUCE_OUTPUTS);
    size_t threads = f->n_rows * s->n_threads <= SERIAL_SUMS ? 1 : s->n_threads; /* a fork costs more than a few sums */
    trit_pool_run(s->pool, reduce_piece, f, pieces, threads);
}

/* ---- down ------------------------------------------------------------------------------------------------------- */

static void pairs_unit(void *context, size_t item, size_t thread)
{
    (void)thread;
    const ffn *f = context;
    const trit_session *s = f->session;
    const part p = part_of_unit(f, f->down, item);
    s->model->kernels.down_pairs(pairs_of(s, p.row0), s->ffn_stride, s->n_inputs + p.row0, s->x_sum + p.row0, p.n_rows,
                                 f->down->w, f->down->k, p.panel0, p.panel1, f->down->n, s->row_scale + p.row0,
                                 s->y + p.row0 * s->hidden_stride, s->hidden_stride);
}

/* Runs that no row of a few asks for. */
static size_t count_needless(const ffn *f)
{
    const trit_session *s = f->session;
    size_t stride = trit_linear_x_stride(f->down), needless = 0;
    if (f->n_rows == 1)
        return f->down->k - (size_t)s->n_inputs[0];
    for (size_t i = 0; i < f->down->k; i++) {
        int needed = 0;
        for (size_t row = 0; row < f->n_rows; row++)
            needed |= s->x_q[row * stride + i];
        needless += needed == 0;
    }
    return needless;
}

void trit_ffn_down(trit_session *s, const trit_linear *down, size_t n_rows)
{
    if (down->layout != TRIT_LAYOUT_T2_COLS) {
        trit_linear_run(s, &(trit_linear_job){down, s->y, s->hidden_stride}, 1, n_rows);
        return;
    }
    ffn f = {.session = s, .down = down, .n_rows = n_rows};
    row_scales(s, 0, down, n_rows);
    if (n_rows <= TRIT_DOWN_FEW_ROWS) {
        if (!s->options.no_skip)
            s->stats.bytes_skipped += count_needless(&f) * down->stride_bytes;
        down_few(&f);
        return;
    }
    size_t n_units = cut_units(&f, down);
    trit_pool_run(s->pool, pairs_unit, &f, n_units, s->n_threads);
}
