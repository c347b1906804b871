/* kernels.h - declarations of everything in kernels.inc. For dispatch.c and kerncheck; nothing else needs a kernel's name. */
#ifndef TRIT_KERNELS_H
#define TRIT_KERNELS_H

#include "measure/int8.h"
#include "ops.h"

#define X(op, type, isa, function) extern type function;
#define R(isa, table) extern const trit_row_ops table;
#define L(isa, loop) extern trit_int8_loop_fn loop;
#include "kernels.inc"

#endif
