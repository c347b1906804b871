/* model.h - an opened model: pointers into the mapped file, and the kernels chosen for it. Immutable after open, shared freely. */
#ifndef TRIT_MODEL_H
#define TRIT_MODEL_H

#include "ops.h"
#include "packed_file.h"

/* One ternary linear, y (n) = W (n, k) x (k). */
typedef struct trit_linear {
    const uint8_t *w;
    int32_t layout; /* trit_layout, a ternary one */
    size_t n, k;
    size_t groups;       /* padded k / 4 */
    size_t stride_bytes; /* T2_ROWS: from output to output, T2_COLS: from input to input */
    size_t n_panels;     /* panels of 64 outputs */
    float scale;
} trit_linear;

typedef struct trit_layer {
    trit_linear linears[TRIT_T_DOWN + 1]; /* by kind */
    const float *norm_attn, *norm_ffn;
    const float *norm_attn_sub, *norm_ffn_sub; /* NULL in a model without sub-norms */
} trit_layer;

/* (vocab, hidden) int16 in two byte planes. */
typedef struct trit_planes {
    const int8_t *hi, *lo;
    const int8_t *shift; /* (vocab), -126..126 */
    int8_t least_shift;  /* of all */
    size_t groups, n_panels;
} trit_planes;

enum { TRIT_MAX_TIMINGS = 64 };

struct trit_model {
    trit_arch arch;
    trit_kernels kernels;
    int isa_was_given; /* not TRIT_ISA_AUTO */
    trit_map map;
    trit_layer *layers;
    const float *norm_final;
    const float *rope_cos, *rope_sin; /* (max_positions, head_dim / 2) */
    trit_planes embed, head;          /* head = embed when tied */
    size_t widest_dense;              /* groups of the widest linear in T5_P64G4, 0: there is none */
    uint64_t body_bytes, head_bytes;
    trit_timing timings[TRIT_MAX_TIMINGS]; /* of kernels, if they were calibrated */
    size_t n_timings;
    uint64_t fingerprint; /* of the arch, the table and samples of the contents: whose KV is this? */
};

trit_status trit_model_load(trit_model **out, int fd, const trit_arch *arch, const trit_tensor *tensors,
                            size_t n_tensors, trit_isa isa, int32_t n_threads, trit_error *err);
void trit_model_unload(trit_model *model);

#endif
