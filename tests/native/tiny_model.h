/* tiny_model.h - a random model small enough for thousands of steps a second, as a memfd and a tensor table. */
#ifndef TRIT_TESTS_TINY_MODEL_H
#define TRIT_TESTS_TINY_MODEL_H

#include "trit/trit.h"

enum { TINY_MAX_TENSORS = 64, TINY_BLOCKS = 48 };

typedef struct tiny_model {
    trit_arch arch;
    int32_t ternary_layout; /* T2_ROWS: up in it and down in T2_COLS, where zeros are skipped, the rest in panels */
    trit_tensor tensors[TINY_MAX_TENSORS];
    size_t n_tensors;
    uint64_t file_bytes;
    int fd;
} tiny_model;

/* Widths that are no multiple of anything, two layers, two query heads per KV head. */
extern const trit_arch tiny_arch;

/* 1 on success. */
int tiny_make(tiny_model *out, const trit_arch *arch, uint64_t seed, int tied);
/* The same weights, all in panels. */
int tiny_make_panels(tiny_model *out, const trit_arch *arch, uint64_t seed, int tied);
/* The same weights, five in a byte. */
int tiny_make_dense(tiny_model *out, const trit_arch *arch, uint64_t seed, int tied);
void tiny_drop(tiny_model *tiny);
int tiny_memfd(uint64_t bytes);

/* A model, a KV pool of TINY_BLOCKS and a session over it, opened with `isa` and n_threads. */
typedef struct tiny_stack {
    trit_model *model;
    int kv_fd;
    trit_kv *kv;
    trit_session *session;
} tiny_stack;

trit_status tiny_open(tiny_stack *out, const tiny_model *tiny, trit_isa isa, int32_t n_threads, trit_error *err);
/* tiny_open skips, and keeps int16 keys and values. */
trit_status tiny_open_with(tiny_stack *out, const tiny_model *tiny, trit_isa isa, int32_t n_threads, int skip,
                           trit_kv_dtype dtype, trit_error *err);
void tiny_close(tiny_stack *stack);

#endif
