/*
 * int8.h - register loops that do nothing but int8 multiply-adds, the ceiling that kernels are compared with. One file per instruction
 * set, with the instructions its kernels use.
 */
#ifndef TRIT_MEASURE_INT8_H
#define TRIT_MEASURE_INT8_H

#include <stdint.h>

#include "trit/trit.h"

/* Does `rounds` rounds; *sink makes them needed. Returns the operations done, a multiply-add being two. */
typedef uint64_t trit_int8_loop_fn(uint64_t rounds, int32_t *sink);

/* The loop with the best instructions of `isa`, which this CPU runs (dispatch.c). */
trit_int8_loop_fn *trit_int8_loop_of(trit_isa isa);

#endif
