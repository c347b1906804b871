/*
 * calibrate.h - which of several kernels that give the same bits is the fastest here, measured when a model is opened.
 *
 * On Zen 4 a 512-bit instruction takes two passes, on Sapphire Rapids tiles compete with vectors, and neither says so in cpuid. A
 * wrong choice (another process took the core meanwhile) costs speed alone.
 */
#ifndef TRIT_CALIBRATE_H
#define TRIT_CALIBRATE_H

#include "dispatch.h"
#include "model.h"

/* Seconds of one call of candidate i. */
typedef double trit_time_fn(void *context, size_t i);

/*
 * Time n candidates in turn, round by round, until TRIT_CALIBRATE_ROUNDS are done or TRIT_CALIBRATE_SECONDS are spent, but each at
 * least once; best (n): the shortest of each. Returns the choice: the fastest, but the last of those within 3 % of it, so that noise does
 * not decide between rungs that are alike.
 */
enum { TRIT_CALIBRATE_ROUNDS = 7 };
#define TRIT_CALIBRATE_SECONDS 4e-3
size_t trit_calibrate_choose(trit_time_fn *time, void *context, size_t n, double *best);

/*
 * Choose gemv, few, gemm, head, qk and av of a model among all supported rungs by their speed in its sizes, on this thread: at most some
 * 30 ms and 3 MB, nothing at all where there is nothing to choose. Fills model->timings.
 */
trit_status trit_calibrate(trit_model *model, trit_error *err);

/* The same among the kernels that `candidates` names for an op, 0 to TRIT_ISA_COUNT. */
typedef size_t trit_candidates_fn(trit_op op, trit_kernel out[TRIT_ISA_COUNT]);
trit_status trit_calibrate_among(trit_model *model, trit_candidates_fn *candidates, trit_error *err);

#endif
