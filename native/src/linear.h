/*
 * linear.h - ternary linears of a step: one work list of row and panel ranges over up to three linears that read the same int8 rows (q, k, v;
 * gate, up), so that a fork covers them all.
 */
#ifndef TRIT_LINEAR_H
#define TRIT_LINEAR_H

#include "session.h"

/* y (n_rows, y_stride) */
typedef struct trit_linear_job {
    const trit_linear *linear;
    float *y;
    size_t y_stride;
} trit_linear_job;

/* Inputs of all layouts together are padded to this: a unit of T2_ROWS. */
enum { TRIT_INPUTS_STEP = 256 };
/* Stride of a linear's int8 inputs in session->x_q: its inputs rounded up to TRIT_INPUTS_STEP. */
size_t trit_linear_x_stride(const trit_linear *linear);

/* For so many rows in panels, more than one. */
trit_ternary_fn *trit_linear_kernel(const trit_kernels *kernels, size_t n_rows);

/* x_q, x_sum and x_scale of rows 0..n_rows-1 are in the session, quantised for these linears. n_jobs 1..3. */
void trit_linear_run(trit_session *session, const trit_linear_job *jobs, size_t n_jobs, size_t n_rows);

#endif
