/*
 * int8.h - register loops that do nothing but int8 multiply-adds, the ceiling that kernels are compared with. One file per instruction
 * set, with the instructions its kernels use.
 */
#ifndef TRIT_MEASURE_INT8_H
#define TRIT_MEASURE_INT8_H

#include <stdint.h>

/* Does `rounds` rounds; *sink makes them needed. Returns the operations done, a multiply-add being two. */
typedef uint64_t trit_int8_loop_fn(uint64_t rounds, int32_t *sink);

trit_int8_loop_fn trit_int8_loop__ref;
#ifdef TRIT_HAVE_AVX2
trit_int8_loop_fn trit_int8_loop__avx2;
#endif
#ifdef TRIT_HAVE_AVX512VNNI
trit_int8_loop_fn trit_int8_loop__avx512vnni;
#endif
#ifdef TRIT_HAVE_NEON
trit_int8_loop_fn trit_int8_loop__neon;
#endif

#endif
