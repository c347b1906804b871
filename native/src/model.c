/* model.c - from a checked tensor table to pointers, and the checks of what the tensors hold. */
#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "checksum.h"
#include "mem.h"
#include "model.h"
#include "status.h"
#include "thread_pool.h"

enum {
    SCAN_BYTES = 1 << 20,
    SCAN_LIMIT_BYTES = 1 << 30,
    SAMPLE_STRIDE = 1 << 15,
    MAX_SAMPLES = 1 << 14,
    MAX_SHIFT = 126
};
/* Scanned and sampled here and there: with the system's reading ahead of 8 MiB that read most of 23 GB, in 54 s. */
static const uint64_t LARGE_FILE_BYTES = (uint64_t)4 << 30;

/* ---- contents --------------------------------------------------------------------------------------------------- */

/* The table and the map, as all checks of contents see them. */
typedef struct source {
    const trit_map *map;
    const trit_tensor *tensors;
    size_t n_tensors;
} source;

/* One stretch of at most SCAN_BYTES of one ternary tensor. */
typedef struct stretch {
    const uint8_t *bytes;
    size_t n_bytes, tensor;
} stretch;

typedef struct scan {
    const stretch *stretches;
    const trit_tensor *tensors;
    const trit_kernels *kernels;
    int sparse;            /* stretches are far apart */
    atomic_size_t damaged; /* lowest damaged stretch + 1, or 0 */
} scan;

static void scan_item(void *context, size_t item, size_t thread)
{
    (void)thread;
    scan *s = context;
    const stretch *part = &s->stretches[item];
    if (s->sparse)
        trit_map_fetch(part->bytes, part->n_bytes);
    int dense = s->tensors[part->tensor].layout == TRIT_LAYOUT_T5_P64G4;
    trit_codes_valid_fn *valid = dense ? s->kernels->dense_valid : s->kernels->codes_valid;
    if (valid(part->bytes, part->n_bytes))
        return;
    size_t known = atomic_load(&s->damaged);
    while ((known == 0 || item + 1 < known) && !atomic_compare_exchange_weak(&s->damaged, &known, item + 1))
        continue;
}

/*
 * Codes of every ternary tensor, in parallel: 521 MB for 2B4T, at the speed of memory. Of more than SCAN_LIMIT_BYTES only every second, third, ...
 * stretch: a model of 7 GB that is not in memory took 21 s to start, all of it reading from disk. That trusts nothing more, since a kernel
 * reads any byte safely and a 3 only gives a wrong product; doctor compares the checksums of all.
 */
static trit_status check_codes(source src, const trit_kernels *kernels, int32_t n_threads, trit_error *err)
{
    size_t n_stretches = 0, seen = 0;
    uint64_t total = 0;
    for (size_t i = 0; i < src.n_tensors; i++)
        if (trit_tensor_is_ternary(src.tensors[i].kind)) {
            n_stretches += (size_t)(src.tensors[i].bytes / SCAN_BYTES) + 1;
            total += src.tensors[i].bytes;
        }
    size_t every = (size_t)((total + SCAN_LIMIT_BYTES - 1) / SCAN_LIMIT_BYTES);
    stretch *stretches = trit_alloc(n_stretches, sizeof *stretches);
    if (stretches == NULL)
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory to scan %zu stretches", n_stretches);
    size_t n = 0;
    for (size_t i = 0; i < src.n_tensors; i++)
        for (uint64_t done = 0; trit_tensor_is_ternary(src.tensors[i].kind) && done < src.tensors[i].bytes; seen++) {
            uint64_t left = src.tensors[i].bytes - done;
            size_t now = left < SCAN_BYTES ? (size_t)left : (size_t)SCAN_BYTES;
            if (seen % every == 0)
                stretches[n++] = (stretch){src.map->bytes + src.tensors[i].offset + done, now, i};
            done += now;
        }

    trit_pool *pool = NULL;
    trit_status status = trit_pool_create(&pool, n_threads, err);
    if (status == TRIT_OK) {
        scan s = {.stretches = stretches, .tensors = src.tensors, .kernels = kernels, .sparse = every > 1};
        trit_pool_run(pool, scan_item, &s, n, (size_t)n_threads);
        size_t damaged = atomic_load(&s.damaged);
        if (damaged != 0) {
            const stretch *bad = &stretches[damaged - 1];
            status = trit_fail(err, TRIT_ERR_FORMAT,
                               "tensor %zu holds a ternary code that never occurs, in %zu bytes at file offset %llu",
                               bad->tensor, bad->n_bytes, (unsigned long long)(bad->bytes - src.map->bytes));
        }
    }
    trit_pool_destroy(&pool);
    trit_free(stretches);
    return status;
}

/* Small tensors: floats finite, shifts such that 2^-shift is a normal number. */
static trit_status check_values(source src, trit_error *err)
{
    for (size_t i = 0; i < src.n_tensors; i++) {
        const trit_tensor *t = &src.tensors[i];
        const uint8_t *bytes = src.map->bytes + t->offset;
        if (t->layout == TRIT_LAYOUT_F32) {
            for (uint64_t j = 0; j < t->bytes / sizeof(float); j++) {
                float value;
                memcpy(&value, bytes + j * sizeof value, sizeof value);
                if (!isfinite(value))
                    return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu: element %llu is not finite", i,
                                     (unsigned long long)j);
            }
        } else if (t->layout == TRIT_LAYOUT_I8) {
            for (uint64_t j = 0; j < t->bytes; j++)
                if ((int8_t)bytes[j] < -MAX_SHIFT || (int8_t)bytes[j] > MAX_SHIFT)
                    return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu: shift %llu is %d, expected -%d to %d", i,
                                     (unsigned long long)j, (int8_t)bytes[j], MAX_SHIFT, MAX_SHIFT);
        }
    }
    return TRIT_OK;
}

static uint64_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/*
 * Not the position in the file: the same weights in another file may use the same KV. Samples keep this at a few milliseconds, and their number
 * bounds what a start waits for a disk.
 */
static uint64_t fingerprint(const trit_arch *arch, source src)
{
    const int32_t dims[] = {arch->hidden,   arch->intermediate, arch->n_layers,      arch->n_heads,    arch->n_kv_heads,
                            arch->head_dim, arch->vocab,        arch->max_positions, arch->activation, arch->sub_norms};
    uint64_t sum = trit_checksum_word(TRIT_API_VERSION, float_bits(arch->norm_eps)), total = 0;
    for (size_t i = 0; i < src.n_tensors; i++)
        total += src.tensors[i].bytes; /* inside one file: no overflow */
    size_t stride = trit_round_up((size_t)(total / MAX_SAMPLES) + 1, TRIT_ALIGN);
    stride = stride > SAMPLE_STRIDE ? stride : (size_t)SAMPLE_STRIDE;
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        sum = trit_checksum_word(sum, (uint64_t)dims[i]);
    for (int32_t kind = 0; kind < TRIT_T_KIND_COUNT; kind++)
        for (size_t i = 0; i < src.n_tensors; i++) {
            const trit_tensor *t = &src.tensors[i];
            if (t->kind != kind)
                continue;
            const uint8_t *bytes = src.map->bytes + t->offset;
            /* Commutative over the layers of a kind, which may stand in any order in the table. */
            uint64_t one = trit_checksum_word((uint64_t)(t->layer + 1), float_bits(t->scale));
            for (uint64_t at = 0; at + TRIT_ALIGN <= t->bytes; at += stride)
                one = trit_checksum(one, bytes + at, TRIT_ALIGN);
            sum += trit_checksum_word(one, (uint64_t)kind);
        }
    return trit_checksum_word(sum, 1);
}

/* ---- pointers --------------------------------------------------------------------------------------------------- */

typedef struct table {
    source src;
    const int32_t *index;
    size_t n_layers;
} table;

static const trit_tensor *find_tensor(const table *t, int32_t kind, size_t layer)
{
    int32_t at = t->index[(size_t)kind * t->n_layers + layer];
    return at < 0 ? NULL : &t->src.tensors[at];
}

/* One that trit_tensors_check has seen to be there. */
static const trit_tensor *tensor_of(const table *t, int32_t kind, size_t layer)
{
    const trit_tensor *tensor = find_tensor(t, kind, layer);
    assert(tensor != NULL);
    return tensor;
}

/* NULL if there is none. Offsets are multiples of 64 and maps of pages: the cast is aligned. */
static const float *floats_of(const table *t, int32_t kind, size_t layer)
{
    const trit_tensor *tensor = find_tensor(t, kind, layer);
    return tensor == NULL ? NULL : (const float *)(const void *)(t->src.map->bytes + tensor->offset);
}

static int8_t least_of(const int8_t *shift, size_t n)
{
    int8_t least = INT8_MAX;
    for (size_t i = 0; i < n; i++)
        least = shift[i] < least ? shift[i] : least;
    return least;
}

static trit_planes planes_of(const table *t, int32_t kind, int32_t shift_kind)
{
    const trit_tensor *tensor = tensor_of(t, kind, 0), *shift = tensor_of(t, shift_kind, 0);
    const uint8_t *bytes = t->src.map->bytes;
    size_t groups = trit_round_up((size_t)tensor->k, 64) / TRIT_GROUP;
    return (trit_planes){.hi = (const int8_t *)(bytes + tensor->offset),
                         .lo = (const int8_t *)(bytes + tensor->offset + tensor->bytes / 2),
                         .shift = (const int8_t *)(bytes + shift->offset),
                         .least_shift = least_of((const int8_t *)(bytes + shift->offset), (size_t)shift->n),
                         .groups = groups,
                         .n_panels = trit_round_up((size_t)tensor->n, TRIT_HEAD_PANEL) / TRIT_HEAD_PANEL};
}

static void fill_layer(trit_layer *layer, const table *t, size_t at)
{
    for (int32_t kind = TRIT_T_Q; kind <= TRIT_T_DOWN; kind++) {
        const trit_tensor *tensor = tensor_of(t, kind, at);
        size_t n_panels = trit_round_up((size_t)tensor->n, TRIT_PANEL) / TRIT_PANEL;
        layer->linears[kind] = (trit_linear){.w = t->src.map->bytes + tensor->offset,
                                             .layout = tensor->layout,
                                             .n = (size_t)tensor->n,
                                             .k = (size_t)tensor->k,
                                             .groups = trit_round_up((size_t)tensor->k, 64) / TRIT_GROUP,
                                             .stride_bytes = tensor->layout == TRIT_LAYOUT_T2_COLS
                                                                 ? n_panels * 16
                                                                 : trit_round_up((size_t)tensor->k, 256) / 4,
                                             .n_panels = n_panels,
                                             .scale = tensor->scale};
    }
    layer->norm_attn = floats_of(t, TRIT_T_NORM_ATTN, at);
    layer->norm_attn_sub = floats_of(t, TRIT_T_NORM_ATTN_SUB, at);
    layer->norm_ffn = floats_of(t, TRIT_T_NORM_FFN, at);
    layer->norm_ffn_sub = floats_of(t, TRIT_T_NORM_FFN_SUB, at);
}

static void fill_model(trit_model *model, const table *t)
{
    for (size_t layer = 0; layer < t->n_layers; layer++) {
        fill_layer(&model->layers[layer], t, layer);
        for (int32_t kind = TRIT_T_Q; kind <= TRIT_T_DOWN; kind++) {
            const trit_linear *linear = &model->layers[layer].linears[kind];
            if (linear->layout == TRIT_LAYOUT_T5_P64G4 && linear->groups > model->widest_dense)
                model->widest_dense = linear->groups;
        }
    }
    model->norm_final = floats_of(t, TRIT_T_NORM_FINAL, 0);
    model->rope_cos = floats_of(t, TRIT_T_ROPE_COS, 0);
    model->rope_sin = floats_of(t, TRIT_T_ROPE_SIN, 0);
    model->embed = planes_of(t, TRIT_T_EMBED, TRIT_T_EMBED_SHIFT);
    int tied = find_tensor(t, TRIT_T_HEAD, 0) == NULL;
    model->head = tied ? model->embed : planes_of(t, TRIT_T_HEAD, TRIT_T_HEAD_SHIFT);
    model->head_bytes = tensor_of(t, tied ? TRIT_T_EMBED : TRIT_T_HEAD, 0)->bytes;
    for (size_t i = 0; i < t->src.n_tensors; i++)
        if (trit_tensor_is_ternary(t->src.tensors[i].kind))
            model->body_bytes += t->src.tensors[i].bytes;
}

/* ---- open ------------------------------------------------------------------------------------------------------- */

trit_status trit_model_load(trit_model **out, int fd, const trit_arch *arch, const trit_tensor *tensors,
                            size_t n_tensors, trit_isa isa, int32_t n_threads, trit_error *err)
{
    int32_t *index = NULL;
    trit_status status;
    trit_model *model = trit_alloc(1, sizeof *model);
    if (model == NULL)
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory for a model handle");
    model->isa_was_given = isa != TRIT_ISA_AUTO;
    if (!trit_kernels_select(&model->kernels, isa)) {
        status = trit_isa_check(isa, err);
        goto fail;
    }
    if ((status = trit_arch_check(arch, err)) != TRIT_OK)
        goto fail;
    model->arch = *arch;
    if ((status = trit_map_file(&model->map, fd, err)) != TRIT_OK)
        goto fail;
    if ((status = trit_tensors_check(arch, tensors, n_tensors, model->map.file_bytes, &index, err)) != TRIT_OK)
        goto fail;
    source src = {&model->map, tensors, n_tensors};
    if ((status = check_values(src, err)) != TRIT_OK)
        goto fail;
    int is_large = model->map.file_bytes > LARGE_FILE_BYTES;
    if (is_large)
        trit_map_expect(&model->map, 1);
    if ((status = check_codes(src, &model->kernels, n_threads, err)) != TRIT_OK)
        goto fail;
    model->layers = trit_alloc((size_t)arch->n_layers, sizeof *model->layers);
    if (model->layers == NULL) {
        status = trit_fail(err, TRIT_ERR_MEMORY, "no memory for %d layers", arch->n_layers);
        goto fail;
    }
    fill_model(model, &(table){src, index, (size_t)arch->n_layers});
    model->fingerprint = fingerprint(arch, src);
    if (is_large)
        trit_map_expect(&model->map, 0);
    trit_free(index);
    *out = model;
    return TRIT_OK;

fail:
    trit_free(index);
    trit_model_unload(model);
    return status;
}

void trit_model_unload(trit_model *model)
{
    if (model == NULL)
        return;
    trit_free(model->layers);
    trit_map_release(&model->map);
    trit_free(model);
}
