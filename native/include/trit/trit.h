/*
 * trit.h - the public interface of libtrit: exact inference of ternary (W1.58 A8) language models on CPUs.
 *
 * Also read by cffi (the preprocessor is run first with TRIT_CFFI defined), so: plain C declarations only.
 *
 * Conventions. Every function that can fail returns a trit_status and, if `err` is not NULL, writes what was wrong, what was
 * got and what was expected. Out parameters are written only on success. Arguments are all validated: a wrong call is
 * answered, never undefined. The library does not print, exit, abort, read the environment or install signal handlers.
 * Sizes are in elements unless the name says bytes. docs/numerics.md fixes every arithmetic result to the bit.
 *
 * Threads. A trit_model is immutable after open and may be shared. A trit_kv and a trit_session belong to one caller at a time.
 */
#ifndef TRIT_TRIT_H
#define TRIT_TRIT_H

#ifndef TRIT_CFFI
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#endif

#define TRIT_API_VERSION 1
#define TRIT_BLOCK_TOKENS 16 /* tokens of one KV block */
#define TRIT_CHUNK_TOKENS 64 /* attention chunk, absolute positions; see docs/numerics.md */
#define TRIT_PANEL 64        /* outputs of one ternary panel */
#define TRIT_GROUP 4         /* inputs of one group */
#define TRIT_HEAD_PANEL 16   /* vocabulary rows of one head panel */
#define TRIT_MAX_TOP 20      /* largest number of top log-probabilities */
#define TRIT_HASH_BYTES 32
#define TRIT_MAX_HEAD_DIM 256

typedef enum trit_status {
    TRIT_OK = 0,
    TRIT_ERR_ARGUMENT,    /* the caller passed something impossible */
    TRIT_ERR_MEMORY,      /* an allocation or mapping failed */
    TRIT_ERR_IO,          /* the operating system refused a file operation */
    TRIT_ERR_FORMAT,      /* the model file or KV region is damaged or not what it says */
    TRIT_ERR_UNSUPPORTED, /* valid, but this build or CPU cannot do it */
    TRIT_ERR_STATE        /* the handle is not in a state that allows the call */
} trit_status;

typedef struct trit_error {
    trit_status status;
    char text[248]; /* NUL-terminated UTF-8 */
} trit_error;

const char *trit_status_name(trit_status status);
const char *trit_version(void);

/* ---- instruction sets ------------------------------------------------------------------------------------------- */

/* Worst first: an instruction set uses the kernels of those before it for what it has none of its own. */
typedef enum trit_isa {
    TRIT_ISA_AUTO = -1,
    TRIT_ISA_REF = 0,           /* plain C, the specification; runs everywhere */
    TRIT_ISA_AVX2 = 1,          /* AVX2 + FMA */
    TRIT_ISA_AVXVNNI = 2,       /* and AVX-VNNI: dot products in 256 bits */
    TRIT_ISA_AVX512VNNI256 = 3, /* AVX-512 F/BW/VL/DQ + VNNI, in 256 bits */
    TRIT_ISA_AVX512VNNI = 4,    /* the same in 512 bits */
    TRIT_ISA_AMX = 5,           /* and AMX int8 tiles */
    TRIT_ISA_NEON = 6,          /* AArch64 NEON + dotprod */
    TRIT_ISA_NEONI8MM = 7       /* and i8mm */
} trit_isa;
#define TRIT_ISA_COUNT 8

const char *trit_isa_name(trit_isa isa);
/* TRIT_OK if this CPU and operating system can run it and this build contains it, else TRIT_ERR_UNSUPPORTED and why. */
trit_status trit_isa_check(trit_isa isa, trit_error *err);
/* 1 if trit_isa_check is content, else 0. */
int trit_isa_supported(trit_isa isa);
/* The best supported one (never TRIT_ISA_AUTO). */
trit_isa trit_isa_best(void);
/* Name of op 0, 1, ... that instruction sets have kernels for; "" past the last. Static, like the next. */
const char *trit_op_name(int32_t op);
/* Name of the kernel that serves the op under `isa`, before any calibration; "" if this build lacks `isa`. */
const char *trit_isa_kernel(trit_isa isa, int32_t op);

/* ---- model ------------------------------------------------------------------------------------------------------ */

typedef struct trit_model trit_model;

typedef enum trit_activation { TRIT_ACT_RELU2 = 0, TRIT_ACT_SILU = 1 } trit_activation;

typedef struct trit_arch {
    int32_t hidden;       /* width of the residual stream, multiple of 4 */
    int32_t intermediate; /* width of the FFN, multiple of 4 */
    int32_t n_layers;
    int32_t n_heads;
    int32_t n_kv_heads; /* divides n_heads */
    int32_t head_dim;   /* even, 2..TRIT_MAX_HEAD_DIM */
    int32_t vocab;
    int32_t max_positions; /* rows of the RoPE tables: the largest context */
    int32_t activation;    /* trit_activation */
    int32_t sub_norms;     /* 1: attn_sub_norm and ffn_sub_norm exist */
    float norm_eps;
} trit_arch;

typedef enum trit_tensor_kind {
    TRIT_T_Q = 0,
    TRIT_T_K,
    TRIT_T_V,
    TRIT_T_O,
    TRIT_T_GATE,
    TRIT_T_UP,
    TRIT_T_DOWN, /* ternary */
    TRIT_T_NORM_ATTN,
    TRIT_T_NORM_ATTN_SUB,
    TRIT_T_NORM_FFN,
    TRIT_T_NORM_FFN_SUB, /* float32 (n) */
    TRIT_T_NORM_FINAL,   /* float32 (hidden), layer -1 */
    TRIT_T_EMBED,        /* int16 planes (vocab, hidden), layer -1; also the head when TRIT_T_HEAD is absent (tied) */
    TRIT_T_EMBED_SHIFT,  /* int8 (vocab) */
    TRIT_T_HEAD,
    TRIT_T_HEAD_SHIFT,
    TRIT_T_ROPE_COS,
    TRIT_T_ROPE_SIN, /* float32 (max_positions, head_dim / 2), layer -1 */
    TRIT_T_KIND_COUNT
} trit_tensor_kind;

/* Versioned layouts. A file that names a layout this library does not know is refused, never guessed. */
typedef enum trit_layout {
    TRIT_LAYOUT_F32 = 1, /* row-major float32 */
    TRIT_LAYOUT_I8 = 2,  /* row-major int8 */
    /* Ternary panels of 64 outputs x groups of 4 inputs; one 64-byte vector per (panel, group), vectors of a panel adjacent,
     * panels in order. Bits 2f, 2f+1 of byte b: weight + 1 of output 16f + b / 4 and input b % 4. Outputs are padded to
     * 64 and inputs to 64 (16 groups: four AMX tiles) with weight 0 (code 1). */
    TRIT_LAYOUT_T2_P64G4 = 3,
    /* int16 in balanced byte planes: the whole high plane, then the whole low plane. A plane: panels of 16 rows x groups of 4
     * inputs; 64-byte vectors [16 rows][4 inputs] int8; vectors of a panel adjacent. Rows padded to 16, inputs to 64, with 0. */
    TRIT_LAYOUT_I16_P16G4 = 4,
    /* Ternary, dense: five codes (0, 1, 2) in a byte, 1.6 bits a weight. A panel takes four 64-byte vectors for every five groups of
     * T2_P64G4, and one for each of the up to four groups left over. Byte b of vector j of five groups: the four fields of byte b of
     * group j, and field j of byte b of the fifth group, as V = 81 * fifth + 27 * field 3 + 9 * field 2 + 3 * field 1 + field 0, stored as
     * ceil(256 V / 243). The fifth of a group left over is 1. 13 byte values never occur. */
    TRIT_LAYOUT_T5_P64G4 = 5,
    /* Ternary rows, for `up`: the inputs of an output are adjacent, so that single outputs can be computed. Units of 256 inputs in
     * 64 bytes; bits 2f, 2f+1 of byte b: weight + 1 of input 64f + b of the unit. Inputs are padded to 256 with weight 0. */
    TRIT_LAYOUT_T2_ROWS = 6,
    /* Ternary columns, for `down`: the outputs of an input are adjacent, so that single inputs can be left out. A run per input: for
     * every panel of 64 outputs 16 bytes; bits 2f, 2f+1 of byte b: weight + 1 of output 16f + b of the panel. The runs of inputs
     * 4g .. 4g + 3, interleaved byte by byte, are the vectors of T2_P64G4. Padded as T2_P64G4. */
    TRIT_LAYOUT_T2_COLS = 7
} trit_layout;

typedef struct trit_tensor {
    int32_t kind;           /* trit_tensor_kind */
    int32_t layer;          /* 0..n_layers-1, or -1 for tensors of the whole model */
    int32_t layout;         /* trit_layout */
    int32_t layout_version; /* 1 */
    int64_t n;              /* output features / rows / elements */
    int64_t k;              /* input features / columns; 1 for vectors */
    uint64_t offset;        /* bytes from the start of the file, multiple of 64 */
    uint64_t bytes;         /* exactly trit_layout_bytes(layout, n, k) */
    float scale;            /* ternary: multiply by this; else 1 */
} trit_tensor;

/* Bytes of a tensor in a layout; 0 if the layout is unknown, a size is not positive, or the product overflows. */
uint64_t trit_layout_bytes(int32_t layout, int64_t n, int64_t k);

/*
 * Map the packed model file open at `fd` (a regular file; the descriptor stays the caller's) read-only and check that
 * `tensors` is complete and consistent for `arch`: every kind once per layer, shapes, layouts, offsets and sizes inside the file,
 * no overlap, ternary codes never 3 (of more than 1 GiB of them a part, spread evenly), scales finite and positive. isa: TRIT_ISA_AUTO picks the best.
 */
trit_status trit_model_open(trit_model **out, int fd, const trit_arch *arch, const trit_tensor *tensors,
                            size_t n_tensors, trit_isa isa, int32_t n_threads, trit_error *err);
void trit_model_close(trit_model **model);
trit_isa trit_model_isa(const trit_model *model);
/* Name of the kernel that serves the op (trit_op_name); "" if there is no such op. Static. */
const char *trit_model_kernel(const trit_model *model, int32_t op);

/* One kernel as trit_model_calibrate measured it. */
typedef struct trit_timing {
    int32_t op;     /* trit_op_name */
    int32_t chosen; /* 1: it serves the op */
    double seconds; /* best of a few calls */
    const char *kernel;
} trit_timing;
/*
 * Time the kernels of all supported instruction sets that compete for an op, in this model's sizes, and let the fastest serve: milliseconds,
 * and nothing where there is but one. Answers stay the same to the bit. For a handle opened with TRIT_ISA_AUTO (else
 * TRIT_ERR_STATE: one that was asked for stays), before anything was made from it.
 */
trit_status trit_model_calibrate(trit_model *model, trit_error *err);
/* The timings of that, at most `most` into out (may be NULL if 0); returns how many there are. */
size_t trit_model_timings(const trit_model *model, trit_timing *out, size_t most);
/* Bytes read per decoded token when nothing is skipped: ternary body, head (both planes). */
uint64_t trit_model_body_bytes(const trit_model *model);
uint64_t trit_model_head_bytes(const trit_model *model);

/* ---- packing (conversion) --------------------------------------------------------------------------------------- */

/* codes (n, k) int8 in {-1, 0, 1} -> a ternary layout of two bits (TRIT_LAYOUT_T2_*), out_bytes as trit_layout_bytes says. */
trit_status trit_pack_ternary(int32_t layout, const int8_t *codes, int64_t n, int64_t k, uint8_t *out,
                              uint64_t out_bytes, trit_error *err);
trit_status trit_unpack_ternary(int32_t layout, const uint8_t *packed, uint64_t bytes, int64_t n, int64_t k,
                                int8_t *codes, trit_error *err);
/* TRIT_LAYOUT_T2_P64G4 bytes of (n, k) -> TRIT_LAYOUT_T5_P64G4, and back. */
trit_status trit_pack_dense(const uint8_t *t2, uint64_t t2_bytes, int64_t n, int64_t k, uint8_t *out,
                            uint64_t out_bytes, trit_error *err);
trit_status trit_unpack_dense(const uint8_t *dense, uint64_t bytes, int64_t n, int64_t k, uint8_t *t2,
                              uint64_t t2_bytes, trit_error *err);
/* Hugging Face's packed bytes (ceil(n / 4), k): row r in byte row r % q, bits 2 * (r / q), q = ceil(n / 4) -> codes (n, k). */
trit_status trit_unpack_hf(const uint8_t *bytes, int64_t n, int64_t k, int8_t *codes, trit_error *err);
/* Float rows [row0, row0 + n_rows) of a (n, k) matrix into their places of TRIT_LAYOUT_I16_P16G4; row0 a multiple of 16.
 * shift: int8 (n_rows). Fails on a non-finite weight. */
trit_status trit_pack_head(const float *rows, int64_t row0, int64_t n_rows, int64_t n, int64_t k, uint8_t *out,
                           uint64_t out_bytes, int8_t *shift, trit_error *err);

/* ---- KV cache --------------------------------------------------------------------------------------------------- */

/*
 * A paged KV pool in shared memory that outlives the process using it. The region holds a header, one record per block (chain hash,
 * checksum, commit mark) and the blocks. A block is written by steps, then committed once it is full; a new process attaches to
 * the same memory and adopts what verifies.
 */
typedef struct trit_kv trit_kv;

/* How keys and values are stored: docs/numerics.md "Attention". It is part of the result: a pool has one type. */
typedef enum trit_kv_dtype { TRIT_KV_INT16 = 0, TRIT_KV_INT8 = 1 } trit_kv_dtype;

/* Bytes of a region of n_blocks for the model. */
trit_status trit_kv_region_bytes(const trit_model *model, int32_t n_blocks, trit_kv_dtype dtype, uint64_t *bytes,
                                 trit_error *err);
/* Map `fd` (memfd of at least that size; stays the caller's). A zeroed header is initialised; the header of another model,
 * version or type is refused unless `reset` is non-zero, which clears every record. */
trit_status trit_kv_attach(trit_kv **out, const trit_model *model, int fd, int32_t n_blocks, trit_kv_dtype dtype,
                           int32_t reset, trit_error *err);
void trit_kv_detach(trit_kv **kv);
/* Seal a full block under its chain hash: checksum first, then the mark. */
trit_status trit_kv_commit(trit_kv *kv, int32_t block, const uint8_t hash[32], trit_error *err);
/* Clear the mark; must precede the first write to a reused block. */
trit_status trit_kv_invalidate(trit_kv *kv, int32_t block, trit_error *err);
/* Verify a block left by an earlier process: *whole = 1 and its hash, or 0. */
trit_status trit_kv_verify(const trit_kv *kv, int32_t block, int32_t *whole, uint8_t hash[32], trit_error *err);
/* Test aid: fill a block with bytes that would show in an answer if they were ever read. */
trit_status trit_kv_poison(trit_kv *kv, int32_t block, trit_error *err);

/* ---- sampling --------------------------------------------------------------------------------------------------- */

typedef struct trit_sampling {
    uint64_t seed;
    int32_t position;         /* index in the sequence of the token being chosen */
    float temperature;        /* [0, 10,000], 0: greedy */
    float top_p;              /* [0, 1], 0: greedy, 1: off */
    float min_p;              /* [0, 1], 0: off */
    int32_t top_k;            /* 0: off, 1: greedy */
    float repetition_penalty; /* [0.0001, 10,000], 1: off */
    float presence_penalty;   /* these two and bias_values: -10,000 to 10,000 */
    float frequency_penalty;
    const int32_t *history; /* tokens so far, prompt first */
    int32_t n_history;
    int32_t n_prompt; /* of them prompt */
    const int32_t *bias_ids;
    const float *bias_values;
    int32_t n_bias;
    const int32_t *suppressed; /* ids that may not be chosen */
    int32_t n_suppressed;
    /* Late-bound mask of allowed ids, ceil(vocab / 32) words, bit id % 32 of word id / 32; NULL: all allowed. It is read only after
     * *mask_ready is non-zero (NULL: at once), so a grammar may compute it beside the forward pass; after 30 seconds the call gives
     * up with TRIT_ERR_STATE. */
    const uint32_t *mask;
    const int32_t *mask_ready;
} trit_sampling;

#define TRIT_TOKEN_NONFINITE -1 /* a logit is NaN or infinite: fail the request */
#define TRIT_TOKEN_NONE -2      /* every id was masked or suppressed */

typedef struct trit_choice {
    int32_t token; /* chosen id, or TRIT_TOKEN_* */
    float logprob; /* of `token`, before temperature, bias and filters, over the full vocabulary; 0 if n_top was -1 */
    int32_t n_top;
    int32_t top_ids[20]; /* descending, lowest id on ties */
    float top_logprobs[20];
} trit_choice;

/* The sampler alone, as the step uses it. target >= 0 scores that id instead of choosing one. */
trit_status trit_sample(const float *logits, int32_t vocab, const trit_sampling *sampling, int32_t target,
                        int32_t n_top, trit_choice *out, trit_error *err);

/* ---- session: one model step ------------------------------------------------------------------------------------ */

typedef struct trit_session trit_session;

typedef struct trit_session_options {
    int32_t n_threads;   /* 1..256 */
    int32_t max_rows;    /* most rows of a step */
    int32_t max_seqs;    /* most sequences of a step */
    int32_t max_outputs; /* most output rows of a step */
    int32_t no_skip;     /* non-zero: read also the weights that an exact zero makes needless; the same bits, slower */
} trit_session_options;

typedef struct trit_output {
    int32_t row;    /* whose logits: index into the step's rows */
    int32_t target; /* >= 0: score this id (prompt log-probabilities); -1: choose */
    int32_t
        n_top; /* 0..TRIT_MAX_TOP; -1: no log-probabilities at all, so that the row may be screened: the same token for less */
    trit_sampling sampling;
} trit_output;

/* A ragged batch: sequence s owns rows cu_rows[s] .. cu_rows[s + 1] - 1 at positions start_pos[s], start_pos[s] + 1, ... */
typedef struct trit_batch {
    int32_t n_seqs;
    int32_t n_rows;
    int32_t n_outputs;
    int32_t max_blocks;          /* columns of block_tables */
    const int32_t *token_ids;    /* (n_rows) */
    const int32_t *cu_rows;      /* (n_seqs + 1) */
    const int32_t *start_pos;    /* (n_seqs) */
    const int32_t *block_tables; /* (n_seqs, max_blocks): block of positions 16 j .. 16 j + 15 */
    const trit_output *outputs;  /* (n_outputs), rows ascending; several outputs may share a row */
} trit_batch;

trit_status trit_session_create(trit_session **out, const trit_model *model, trit_kv *kv,
                                const trit_session_options *options, trit_error *err);
void trit_session_destroy(trit_session **session);
/* Run one model step: write K and V of every row, choose or score every output. choices (n_outputs); logits (n_outputs, vocab) or
 * NULL. No block may be written by two sequences, and no committed block at all (TRIT_ERR_STATE). A batch that is refused changes
 * nothing; after any other error nothing can be said about the K and V of the step's rows. */
trit_status trit_session_step(trit_session *session, const trit_batch *batch, trit_choice *choices, float *logits,
                              trit_error *err);

typedef struct trit_session_stats {
    uint64_t steps, rows;
    uint64_t down_inputs, down_zeros; /* int8 inputs of the down projections, and how many were 0 */
    /* Rows with outputs; of them screened by the head's high plane; of those undecided, which then read the low plane whole. */
    uint64_t head_rows, screened_rows, undecided_rows;
    uint64_t finished_panels;     /* candidates of screened rows finished from the low plane, 16 ids at a time */
    uint64_t head_bytes;          /* read of the head's planes */
    uint64_t gates, gates_closed; /* gates, and how many were seen to be 0 or below (none where nothing is skipped) */
    uint64_t bytes_skipped;       /* of the ternary body, which a step reads once otherwise */
} trit_session_stats;
void trit_session_read_stats(const trit_session *session, trit_session_stats *out);

/* ---- measuring -------------------------------------------------------------------------------------------------- */

/* How memory is read to measure it. */
typedef struct trit_read_pattern {
    int32_t streams;        /* 1..16 that each thread reads in turn; 1 is a plain sequential read */
    int32_t prefetch_bytes; /* how far ahead each is prefetched, 0: not; at most 65,536 */
    int32_t huge_pages;     /* non-zero: ask for huge pages (memory of its own only) */
} trit_read_pattern;

/* Read bandwidth in bytes per second over `bytes` per call, n_threads, best of `repeats`: of the start of the file open at `fd`, mapped as a
 * model is, or of memory of its own (fd -1). */
trit_status trit_measure_read(int fd, uint64_t bytes, const trit_read_pattern *pattern, int32_t n_threads,
                              int32_t repeats, double *bytes_per_second, trit_error *err);
/* int8 multiply-adds (each 2 operations) per second in registers with the instructions of `isa`. */
trit_status trit_measure_int8(trit_isa isa, int32_t n_threads, double seconds, double *ops_per_second, trit_error *err);
/* Seconds of all ternary linears of the model once, for `rows` rows of fixed int8 inputs, through the kernels a step uses. */
trit_status trit_session_time_linears(trit_session *session, int32_t rows, int32_t repeats, double *seconds,
                                      trit_error *err);

/* ---- for tests -------------------------------------------------------------------------------------------------- */

/* One ternary linear of the model, as a step computes it: x (rows, k) float -> q (rows, k) int8, y (rows, n) float. */
trit_status trit_session_linear(trit_session *session, int32_t kind, int32_t layer, const float *x, int32_t rows,
                                int8_t *q, float *y, trit_error *err);

#ifndef TRIT_CFFI
#ifdef __cplusplus
}
#endif
#endif
#endif
