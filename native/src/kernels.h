/* kernels.h - declarations of everything in kernels.inc. For dispatch.c and kerncheck; nothing else needs a kernel's name. */
#ifndef TRIT_KERNELS_H
#define TRIT_KERNELS_H

#include "ops.h"

#define X(op, type, isa, function) extern type function;
#define R(isa, table) extern const trit_row_ops table;
#include "kernels.inc"

#endif
