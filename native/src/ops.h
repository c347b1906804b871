/*
 * ops.h - the kernel function types and THE CONTRACT between kernels and the forward pass.
 *
 * Shapes and units stand at each type. Common to all:
 *  - M rows (tokens), N outputs, K inputs. Strides are in elements of the pointer they belong to.
 *  - Every buffer is 64-byte aligned and every row stride keeps rows 64-byte aligned, unless said otherwise. A kernel may read up to
 *    the padded end of a row (K rounded up to 64) but writes only what it owns; int8 and int16 inputs are zero in the padding.
 *  - Nothing aliases. Kernels allocate nothing, fail never, and call nothing outside their own translation unit.
 *  - Results equal kernels/ref bit for bit (docs/numerics.md).
 *  - The caller has set flush-to-zero.
 */
#ifndef TRIT_OPS_H
#define TRIT_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "trit/trit.h"

/*
 * Ternary linear, panels [panel0, panel1) of T2_P64G4.
 *   x (M, x_stride) int8, x_stride a multiple of 64 and >= 4 * groups; x_sum (M): sum of each row of x
 *   w: the tensor's first byte; groups = padded K / 4 (multiple of 16)
 *   row_scale (M): w_scale * x_scale
 *   y (M, y_stride) float: y[m][n] = (float)(exact int32) * row_scale[m], written for n in [64 panel0, min(64 panel1, n_outputs))
 * gemv is called with M = 1, few with a handful of rows (linear.c says how many), gemm with more; each takes any M >= 1, and all give the
 * same bits.
 */
typedef void trit_ternary_fn(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                             const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                             const float *restrict row_scale, float *restrict y, size_t y_stride);

/*
 * The same over T5_P64G4: gemv_dense. For more rows, expand writes one panel as T2_P64G4 (groups * 64 bytes, t2) for gemm. All bytes are
 * read as the digits of floor(243 byte / 256), those that never occur too.
 */
typedef void trit_expand_fn(const uint8_t *restrict panel_w, size_t groups, uint8_t *restrict t2);

/* Groups of a block, and vectors of 64 bytes that a panel of T5_P64G4 takes. */
enum { TRIT_DENSE_GROUPS = 5, TRIT_DENSE_VECTORS = 4 };
static inline size_t trit_dense_vectors(size_t groups)
{
    return groups / TRIT_DENSE_GROUPS * TRIT_DENSE_VECTORS + groups % TRIT_DENSE_GROUPS;
}

/*
 * Ternary linear of T2_ROWS (`up`), outputs [n0, n1).
 *   x, x_sum, m, row_scale: as above, but x_stride >= 4 * row_bytes and zeros up to there
 *   w: the tensor's first byte; row_bytes = padded K / 4 (multiple of 64)
 *   gate (M, y_stride): y[m][n] is the linear's output where gate[m][n] > 0 (or is not a number), and 0 elsewhere; a row of w that no
 *   gate asks for is not read. NULL: every output.
 */
typedef void trit_up_rows_fn(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                             const uint8_t *restrict w, size_t row_bytes, size_t n0, size_t n1,
                             const float *restrict row_scale, const float *restrict gate, float *restrict y,
                             size_t y_stride);

/*
 * Part of one row of a linear of T2_COLS (`down`): acc[n] += sum over i < n_inputs of code * x[inputs[i]], where code is the weight plus
 * one (subtract the sum of x in the end), for all n < 64 panels.
 *   inputs: ascending indices; they go on for n_ahead more, whose runs a kernel may prefetch
 *   w: the tensor's first byte; run_bytes = 16 panels
 *   acc (64 panels) int32, 64-byte aligned
 */
typedef void trit_down_inputs_fn(const int8_t *restrict x, const int32_t *restrict inputs, size_t n_inputs,
                                 size_t n_ahead, const uint8_t *restrict w, size_t run_bytes, int32_t *restrict acc);

/*
 * Several rows of a linear of T2_COLS, panels [panel0, panel1).
 *   pairs (M, pairs_stride): of each row, the pairs of inputs 2p, 2p + 1 that matter, p ascending: p << 16 in the upper half, the two
 *   int8 inputs in the lower, that of 2p first. n_pairs (M). p < 65536 as K <= 131072
 *   w, n_outputs, row_scale, y: as in trit_ternary_fn; n_inputs: K
 */
typedef void trit_down_pairs_fn(const uint32_t *restrict pairs, size_t pairs_stride, const int32_t *restrict n_pairs,
                                const int32_t *restrict x_sum, size_t m, const uint8_t *restrict w, size_t n_inputs,
                                size_t panel0, size_t panel1, size_t n_outputs, const float *restrict row_scale,
                                float *restrict y, size_t y_stride);

/*
 * Output head: one byte plane, panels [panel0, panel1) of 16 vocabulary rows of I16_P16G4. A logit is 256 times the dot with the high
 * plane plus the dot with the low one; which planes of which panels are read is the caller's choice (screen.h).
 *   h (M, h_stride) int16: hidden rows; h_hi, h_lo (M, h_stride) int8: their balanced byte planes, h = 256 * h_hi + h_lo. A kernel reads
 *   whichever it likes.
 *   plane: first byte of the high or the low plane; any int8
 *   dots (M, dots_stride) int64: exact sum of plane x h, written for n in [16 panel0, 16 panel1), the padding of the last panel too
 * M = 1 reads the plane once, as a stream.
 */
typedef void trit_head_fn(const int16_t *restrict h, const int8_t *restrict h_hi, const int8_t *restrict h_lo,
                          size_t h_stride, size_t m, const int8_t *restrict plane, size_t groups, size_t panel0,
                          size_t panel1, int64_t *restrict dots, size_t dots_stride);

/*
 * Attention of one KV head over one chunk of up to 64 tokens (4 blocks of 16), for `n_q` query vectors at once (the query heads of a group
 * and, in prefill, several rows). Integers only. ahead[b]: what is read soon after block b and has its size; a kernel may prefetch it, and
 * must not read it.
 *   q (n_q, q_stride) int16, q_stride = head_dim rounded up to 32, zero padded
 *   k_blocks[b]: K of block b of the chunk, [d/2][16 tokens][2] int16 with d = head_dim; n_blocks 1..4
 *   dots (n_q, 64) int32: lanes of blocks >= n_blocks are not written
 */
typedef void trit_qk_fn(const int16_t *restrict q, size_t q_stride, size_t n_q, const int16_t *const *restrict k_blocks,
                        size_t n_blocks, size_t head_dim, int32_t *restrict dots, const void *const *ahead);
/*
 *   a (n_q, 64) int16: integer probabilities, zero in lanes that do not count
 *   v_blocks[b]: V of block b, [8][d][2] int16: element (t, j) of the block at [t / 2][j][t % 2]
 *   acc (n_q, acc_stride) int32 (head_dim written)
 */
typedef void trit_av_fn(const int16_t *restrict a, size_t n_q, const int16_t *const *restrict v_blocks, size_t n_blocks,
                        size_t head_dim, int32_t *restrict acc, size_t acc_stride, const void *const *ahead);

/* The same over int8 keys and values: K [d/2][16 tokens][2], V [8][d][2] int8. Blocks are 32-byte aligned. */
typedef void trit_qk8_fn(const int16_t *restrict q, size_t q_stride, size_t n_q, const int8_t *const *restrict k_blocks,
                         size_t n_blocks, size_t head_dim, int32_t *restrict dots, const void *const *ahead);
typedef void trit_av8_fn(const int16_t *restrict a, size_t n_q, const int8_t *const *restrict v_blocks, size_t n_blocks,
                         size_t head_dim, int32_t *restrict acc, size_t acc_stride, const void *const *ahead);

/* 1 if no byte is one that never occurs in the layout (T2_P64G4: a field of 3; dense_valid: T5_P64G4). bytes a multiple of 64. */
typedef int trit_codes_valid_fn(const uint8_t *w, size_t bytes);

/*
 * Row operations: float work of one row in the written order of docs/numerics.md. One source (src/rows/rows.c), compiled once per
 * instruction set; the baseline build is the reference. No alignment is asked for.
 */
typedef struct trit_row_ops {
    /* y[i] = (x[i] * inv) * w[i]; y may equal x */
    void (*rmsnorm)(const float *x, const float *w, size_t n, float eps, float *y);
    /* absmax int8; q[n .. n_padded) = 0; returns x_scale, *sum = sum of q, *zeros = how many q are 0 among the n */
    float (*quant_i8)(const float *y, size_t n, size_t n_padded, int8_t *q, int32_t *sum, int32_t *zeros);
    /* absmax int16 (32,512) in balanced planes, padded with 0; returns h_scale */
    float (*quant_head)(const float *y, size_t n, size_t n_padded, int8_t *hi, int8_t *lo);
    /* L2-normalised int16 (32,000): element i to q[i * step]; returns scale */
    float (*quant_l2)(const float *v, size_t n, int16_t *q);
    /* absmax int16 (32,767); returns scale */
    float (*quant_v)(const float *v, size_t n, int16_t *q);
    /* absmax int8 (127) with the floor of quant_v; returns scale */
    float (*quant_kv8)(const float *v, size_t n, int8_t *q);
    /* Hadamard, in place, without its factor: n is a power of two */
    void (*hadamard)(float *x, size_t n);
    /* half split; out may not be x */
    void (*rope)(const float *x, size_t head_dim, const float *cos_row, const float *sin_row, float *out);
    void (*add)(float *x, const float *y, size_t n);
    /* m = relu(g)^2 * u, 0 where relu(g) is 0; and silu(g) * u with silu(g) = g / (1 + exp(-g)) */
    void (*relu2_mul)(const float *g, const float *u, size_t n, float *m);
    void (*silu_mul)(const float *g, const float *u, size_t n, float *m);
    /* Chunk softmax, docs/numerics.md "Attention" steps 1 to 3, of n_q queries: dots (n_q, 64), k_scale (64), v_scale (64), n_valid (n_q)
     * lanes that count, 1 to 64, q_mul (n_q). Writes a (n_q, 64) int16, m_c, l_c and w_scale = W / 32704 (n_q). What stands in the other
     * lanes of dots and scales does not matter. */
    void (*chunk_softmax)(const int32_t *dots, const float *k_scale, const float *v_scale, size_t n_q,
                          const int32_t *n_valid, const float *q_mul, int16_t *a, float *m_c, float *l_c,
                          float *w_scale);
    /* o_c = (float)acc * w_scale, merged into the running m, l (n_q) and o; acc and o (n_q, stride), n of each row; first != 0 starts them */
    void (*chunk_merge)(const int32_t *acc, size_t stride, size_t n_q, size_t n, const float *w_scale, const float *m_c,
                        const float *l_c, int first, float *m, float *l, float *o);
    /* out[i] = o[i] * factor; out may be o */
    void (*scale)(const float *o, float factor, size_t n, float *out);
    /* max and log of the sum of exp over n logits; returns 0 if any is not finite */
    int (*log_sum_exp)(const float *logits, size_t n, float *lse);
    float (*exp1)(float x);
    float (*log1)(float x);
} trit_row_ops;

/* O(op, type): everything an instruction set can bring a kernel for. The reference has all of them. */
#define TRIT_OPS(O)                     \
    O(gemv, trit_ternary_fn)            \
    O(few, trit_ternary_fn)             \
    O(gemm, trit_ternary_fn)            \
    O(up_rows, trit_up_rows_fn)         \
    O(down_inputs, trit_down_inputs_fn) \
    O(down_pairs, trit_down_pairs_fn)   \
    O(head, trit_head_fn)               \
    O(qk, trit_qk_fn)                   \
    O(av, trit_av_fn)                   \
    O(qk8, trit_qk8_fn)                 \
    O(av8, trit_av8_fn)                 \
    O(codes_valid, trit_codes_valid_fn) \
    O(gemv_dense, trit_ternary_fn)      \
    O(expand, trit_expand_fn)           \
    O(dense_valid, trit_codes_valid_fn)

typedef enum trit_op {
#define O(op, type) TRIT_OP_##op,
    TRIT_OPS(O)
#undef O
        TRIT_OP_COUNT
} trit_op;

/* What dispatch fills, once per handle. */
typedef struct trit_kernels {
    trit_isa isa;
#define O(op, type) type *op;
    TRIT_OPS(O)
#undef O
    const trit_row_ops *rows;
    const char *names[TRIT_OP_COUNT]; /* of the functions above */
} trit_kernels;

/* Reference first, then every rung up to `isa` overwrites what it has. Returns 0 if this CPU cannot run `isa`. */
int trit_kernels_select(trit_kernels *out, trit_isa isa);

/*
 * The name of a kernel whose source is compiled for several instruction sets, or against a model of one: TRIT_KERNEL(trit_x) is
 * trit_x__avx2 where TRIT_KERNEL_ISA is avx2. The build defines it per folder of sources.
 */
#define TRIT_KERNEL_JOIN(name, isa) name##__##isa
#define TRIT_KERNEL_OF(name, isa) TRIT_KERNEL_JOIN(name, isa)
#define TRIT_KERNEL(name) TRIT_KERNEL_OF(name, TRIT_KERNEL_ISA)

#endif
