/* tiny_model.c - see tiny_model.h. */
#define _GNU_SOURCE
#include "tiny_model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

const trit_arch tiny_arch = {.hidden = 72,
                             .intermediate = 132,
                             .n_layers = 2,
                             .n_heads = 4,
                             .n_kv_heads = 2,
                             .head_dim = 18,
                             .vocab = 203,
                             .max_positions = 256,
                             .activation = TRIT_ACT_RELU2,
                             .sub_norms = 1,
                             .norm_eps = 1e-5f};

int tiny_memfd(uint64_t bytes)
{
    int fd = memfd_create("trit-test", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static float uniform(uint64_t *state, float low, float high)
{
    return low + (high - low) * (float)(check_random(state) >> 40) * 0x1p-24f;
}

/* Append a tensor's bytes; returns 0 if the write fell short. */
static int append(tiny_model *t, int32_t kind, int32_t layer, int32_t layout, int64_t n, int64_t k, float scale,
                  const void *bytes)
{
    trit_tensor *tensor = &t->tensors[t->n_tensors++];
    *tensor = (trit_tensor){.kind = kind,
                            .layer = layer,
                            .layout = layout,
                            .layout_version = 1,
                            .n = n,
                            .k = k,
                            .offset = t->file_bytes,
                            .bytes = trit_layout_bytes(layout, n, k),
                            .scale = scale};
    if (pwrite(t->fd, bytes, (size_t)tensor->bytes, (off_t)tensor->offset) != (ssize_t)tensor->bytes)
        return 0;
    t->file_bytes = (tensor->offset + tensor->bytes + 63) / 64 * 64;
    return 1;
}

static int add_ternary(tiny_model *t, int32_t kind, int32_t layer, int64_t n, int64_t k, uint64_t *state)
{
    int skips = t->ternary_layout == TRIT_LAYOUT_T2_ROWS;
    int32_t layout = kind == TRIT_T_UP && skips     ? TRIT_LAYOUT_T2_ROWS
                     : kind == TRIT_T_DOWN && skips ? TRIT_LAYOUT_T2_COLS
                                                    : TRIT_LAYOUT_T2_P64G4;
    uint64_t bytes = trit_layout_bytes(layout, n, k);
    int8_t *codes = malloc((size_t)(n * k));
    uint8_t *packed = malloc((size_t)bytes);
    int good = codes != NULL && packed != NULL;
    for (int64_t i = 0; good && i < n * k; i++)
        codes[i] = (int8_t)(check_below(state, 3) - 1);
    float scale = uniform(state, 0.05f, 0.2f);
    good = good && trit_pack_ternary(layout, codes, n, k, packed, bytes, NULL) == TRIT_OK;
    if (good && t->ternary_layout == TRIT_LAYOUT_T5_P64G4) {
        uint64_t dense_bytes = trit_layout_bytes(TRIT_LAYOUT_T5_P64G4, n, k);
        uint8_t *dense = malloc((size_t)dense_bytes);
        good = dense != NULL && trit_pack_dense(packed, bytes, n, k, dense, dense_bytes, NULL) == TRIT_OK &&
               append(t, kind, layer, TRIT_LAYOUT_T5_P64G4, n, k, scale, dense);
        free(dense);
    } else {
        good = good && append(t, kind, layer, layout, n, k, scale, packed);
    }
    free(packed);
    free(codes);
    return good;
}

static int add_floats(tiny_model *t, int32_t kind, int32_t layer, int64_t n, int64_t k, uint64_t *state)
{
    float *values = malloc((size_t)(n * k) * sizeof *values);
    if (values == NULL)
        return 0;
    for (int64_t i = 0; i < n * k; i++) {
        /* Rotations from rational points of the circle: no libm, so that every machine makes the same model. */
        double half = (double)(i / k * (i % k + 1) % 97) / 97.0;
        values[i] = kind == TRIT_T_ROPE_COS   ? (float)((1.0 - half * half) / (1.0 + half * half))
                    : kind == TRIT_T_ROPE_SIN ? (float)(2.0 * half / (1.0 + half * half))
                                              : uniform(state, 0.5f, 1.5f);
    }
    int good = append(t, kind, layer, TRIT_LAYOUT_F32, n, k, 1.0f, values);
    free(values);
    return good;
}

static int add_planes(tiny_model *t, int32_t kind, int32_t shift_kind, int64_t n, int64_t k, uint64_t *state)
{
    uint64_t bytes = trit_layout_bytes(TRIT_LAYOUT_I16_P16G4, n, k);
    float *rows = malloc((size_t)(n * k) * sizeof *rows);
    uint8_t *packed = malloc((size_t)bytes);
    int8_t *shift = malloc((size_t)n);
    int good = rows != NULL && packed != NULL && shift != NULL;
    for (int64_t i = 0; good && i < n * k; i++)
        rows[i] = uniform(state, -2.0f, 2.0f);
    good = good && trit_pack_head(rows, 0, n, n, k, packed, bytes, shift, NULL) == TRIT_OK &&
           append(t, kind, -1, TRIT_LAYOUT_I16_P16G4, n, k, 1.0f, packed) &&
           append(t, shift_kind, -1, TRIT_LAYOUT_I8, n, 1, 1.0f, shift);
    free(shift);
    free(packed);
    free(rows);
    return good;
}

static int add_layer(tiny_model *t, int32_t layer, uint64_t *state)
{
    const trit_arch *a = &t->arch;
    int64_t heads = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
    return add_ternary(t, TRIT_T_Q, layer, heads, a->hidden, state) &&
           add_ternary(t, TRIT_T_K, layer, kv, a->hidden, state) &&
           add_ternary(t, TRIT_T_V, layer, kv, a->hidden, state) &&
           add_ternary(t, TRIT_T_O, layer, a->hidden, heads, state) &&
           add_ternary(t, TRIT_T_GATE, layer, a->intermediate, a->hidden, state) &&
           add_ternary(t, TRIT_T_UP, layer, a->intermediate, a->hidden, state) &&
           add_ternary(t, TRIT_T_DOWN, layer, a->hidden, a->intermediate, state) &&
           add_floats(t, TRIT_T_NORM_ATTN, layer, a->hidden, 1, state) &&
           add_floats(t, TRIT_T_NORM_FFN, layer, a->hidden, 1, state) &&
           (!a->sub_norms || (add_floats(t, TRIT_T_NORM_ATTN_SUB, layer, heads, 1, state) &&
                              add_floats(t, TRIT_T_NORM_FFN_SUB, layer, a->intermediate, 1, state)));
}

static int make(tiny_model *out, const trit_arch *arch, int32_t ternary_layout, uint64_t seed, int tied)
{
    tiny_model t = {.arch = *arch, .ternary_layout = ternary_layout, .file_bytes = 64, .fd = tiny_memfd(64)};
    int good = t.fd >= 0;
    for (int32_t layer = 0; good && layer < arch->n_layers; layer++)
        good = add_layer(&t, layer, &seed);
    good = good && add_floats(&t, TRIT_T_NORM_FINAL, -1, arch->hidden, 1, &seed) &&
           add_planes(&t, TRIT_T_EMBED, TRIT_T_EMBED_SHIFT, arch->vocab, arch->hidden, &seed) &&
           (tied || add_planes(&t, TRIT_T_HEAD, TRIT_T_HEAD_SHIFT, arch->vocab, arch->hidden, &seed)) &&
           add_floats(&t, TRIT_T_ROPE_COS, -1, arch->max_positions, arch->head_dim / 2, &seed) &&
           add_floats(&t, TRIT_T_ROPE_SIN, -1, arch->max_positions, arch->head_dim / 2, &seed);
    *out = t;
    return good;
}

int tiny_make(tiny_model *out, const trit_arch *arch, uint64_t seed, int tied)
{
    return make(out, arch, TRIT_LAYOUT_T2_ROWS, seed, tied);
}

int tiny_make_panels(tiny_model *out, const trit_arch *arch, uint64_t seed, int tied)
{
    return make(out, arch, TRIT_LAYOUT_T2_P64G4, seed, tied);
}

int tiny_make_dense(tiny_model *out, const trit_arch *arch, uint64_t seed, int tied)
{
    return make(out, arch, TRIT_LAYOUT_T5_P64G4, seed, tied);
}

void tiny_drop(tiny_model *tiny)
{
    if (tiny->fd >= 0)
        (void)close(tiny->fd);
    tiny->fd = -1;
}

trit_status tiny_open(tiny_stack *out, const tiny_model *tiny, trit_isa isa, int32_t n_threads, trit_error *err)
{
    return tiny_open_with(out, tiny, isa, n_threads, 1, TRIT_KV_INT16, err);
}

trit_status tiny_open_with(tiny_stack *out, const tiny_model *tiny, trit_isa isa, int32_t n_threads, int skip,
                           trit_kv_dtype dtype, trit_error *err)
{
    const trit_session_options options = {
        .n_threads = n_threads, .max_rows = 160, .max_seqs = 8, .max_outputs = 160, .no_skip = !skip};
    *out = (tiny_stack){.kv_fd = -1};
    uint64_t bytes = 0;
    trit_status status =
        trit_model_open(&out->model, tiny->fd, &tiny->arch, tiny->tensors, tiny->n_tensors, isa, n_threads, err);
    if (status == TRIT_OK)
        status = trit_kv_region_bytes(out->model, TINY_BLOCKS, dtype, &bytes, err);
    if (status == TRIT_OK)
        out->kv_fd = tiny_memfd(bytes);
    if (status == TRIT_OK)
        status = trit_kv_attach(&out->kv, out->model, out->kv_fd, TINY_BLOCKS, dtype, 0, err);
    if (status == TRIT_OK)
        status = trit_session_create(&out->session, out->model, out->kv, &options, err);
    if (status != TRIT_OK)
        tiny_close(out);
    return status;
}

void tiny_close(tiny_stack *stack)
{
    trit_session_destroy(&stack->session);
    trit_kv_detach(&stack->kv);
    if (stack->kv_fd >= 0)
        (void)close(stack->kv_fd);
    stack->kv_fd = -1;
    trit_model_close(&stack->model);
}
