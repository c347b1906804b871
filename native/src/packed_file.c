/* packed_file.c - see packed_file.h. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem.h"
#include "packed_file.h"
#include "status.h"

/* ---- architecture ----------------------------------------------------------------------------------------------- */

/*
 * The widest input: a kernel may accumulate codes in place, up to 2 << 6, times 127 into int32, and 128 * 127 * 131,072 < 2^31. The
 * other bounds are far above any model and keep products of a few of them inside int64.
 */
enum { MAX_WIDTH = 131072, MAX_LAYERS = 1024, MAX_HEADS = 1024, MAX_VOCAB = 1 << 24, MAX_POSITIONS = 1 << 24 };

static trit_status check_range(const char *name, int32_t value, int32_t least, int32_t most, int32_t multiple,
                               trit_error *err)
{
    if (value >= least && value <= most && value % multiple == 0)
        return TRIT_OK;
    return trit_fail(err, TRIT_ERR_ARGUMENT, "arch: %s is %d, expected a multiple of %d in %d to %d", name, value,
                     multiple, least, most);
}

trit_status trit_arch_check(const trit_arch *arch, trit_error *err)
{
    const struct {
        const char *name;
        int32_t value, least, most, multiple;
    } rules[] = {
        {"hidden", arch->hidden, 4, MAX_WIDTH, 4},
        {"intermediate", arch->intermediate, 4, MAX_WIDTH, 4},
        {"n_layers", arch->n_layers, 1, MAX_LAYERS, 1},
        {"n_heads", arch->n_heads, 1, MAX_HEADS, 1},
        {"n_kv_heads", arch->n_kv_heads, 1, MAX_HEADS, 1},
        {"head_dim", arch->head_dim, 2, TRIT_MAX_HEAD_DIM, 2},
        {"vocab", arch->vocab, 1, MAX_VOCAB, 1},
        {"max_positions", arch->max_positions, 1, MAX_POSITIONS, 1},
        {"activation", arch->activation, TRIT_ACT_RELU2, TRIT_ACT_SILU, 1},
        {"sub_norms", arch->sub_norms, 0, 1, 1},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        trit_status status =
            check_range(rules[i].name, rules[i].value, rules[i].least, rules[i].most, rules[i].multiple, err);
        if (status != TRIT_OK)
            return status;
    }
    if (arch->n_heads % arch->n_kv_heads != 0)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "arch: n_kv_heads is %d, expected a divisor of n_heads = %d",
                         arch->n_kv_heads, arch->n_heads);
    if (arch->n_heads * arch->head_dim > MAX_WIDTH)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "arch: n_heads * head_dim is %d, expected at most %d",
                         arch->n_heads * arch->head_dim, MAX_WIDTH);
    if (!(arch->norm_eps >= 1e-30f && arch->norm_eps <= 1.0f))
        return trit_fail(err, TRIT_ERR_ARGUMENT, "arch: norm_eps is %g, expected 1e-30 to 1", (double)arch->norm_eps);
    return TRIT_OK;
}

/* ---- tensor table ----------------------------------------------------------------------------------------------- */

int trit_tensor_is_ternary(int32_t kind)
{
    return kind >= TRIT_T_Q && kind <= TRIT_T_DOWN;
}

int trit_layout_fits(int32_t kind, int32_t layout)
{
    if (layout == TRIT_LAYOUT_T2_ROWS || layout == TRIT_LAYOUT_T2_COLS)
        return kind == (layout == TRIT_LAYOUT_T2_ROWS ? TRIT_T_UP : TRIT_T_DOWN);
    return trit_tensor_is_ternary(kind) && (layout == TRIT_LAYOUT_T2_P64G4 || layout == TRIT_LAYOUT_T5_P64G4);
}

int trit_tensor_is_layered(int32_t kind)
{
    return kind >= TRIT_T_Q && kind <= TRIT_T_NORM_FFN_SUB;
}

static const char *kind_name(int32_t kind)
{
    static const char *const names[TRIT_T_KIND_COUNT] = {"q",
                                                         "k",
                                                         "v",
                                                         "o",
                                                         "gate",
                                                         "up",
                                                         "down",
                                                         "norm_attn",
                                                         "norm_attn_sub",
                                                         "norm_ffn",
                                                         "norm_ffn_sub",
                                                         "norm_final",
                                                         "embed",
                                                         "embed_shift",
                                                         "head",
                                                         "head_shift",
                                                         "rope_cos",
                                                         "rope_sin"};
    return kind >= 0 && kind < TRIT_T_KIND_COUNT ? names[kind] : "?";
}

/* The shape that `kind` must have, and its layout: for ternary tensors the default one, beside which others are allowed. */
static void expected_form(const trit_arch *arch, int32_t kind, int32_t *layout, int64_t *n, int64_t *k)
{
    const int64_t query_width = (int64_t)arch->n_heads * arch->head_dim;
    const int64_t kv_width = (int64_t)arch->n_kv_heads * arch->head_dim;
    const struct {
        int32_t layout;
        int64_t n, k;
    } forms[TRIT_T_KIND_COUNT] = {
        [TRIT_T_Q] = {TRIT_LAYOUT_T2_P64G4, query_width, arch->hidden},
        [TRIT_T_K] = {TRIT_LAYOUT_T2_P64G4, kv_width, arch->hidden},
        [TRIT_T_V] = {TRIT_LAYOUT_T2_P64G4, kv_width, arch->hidden},
        [TRIT_T_O] = {TRIT_LAYOUT_T2_P64G4, arch->hidden, query_width},
        [TRIT_T_GATE] = {TRIT_LAYOUT_T2_P64G4, arch->intermediate, arch->hidden},
        [TRIT_T_UP] = {TRIT_LAYOUT_T2_P64G4, arch->intermediate, arch->hidden},
        [TRIT_T_DOWN] = {TRIT_LAYOUT_T2_P64G4, arch->hidden, arch->intermediate},
        [TRIT_T_NORM_ATTN] = {TRIT_LAYOUT_F32, arch->hidden, 1},
        [TRIT_T_NORM_ATTN_SUB] = {TRIT_LAYOUT_F32, query_width, 1},
        [TRIT_T_NORM_FFN] = {TRIT_LAYOUT_F32, arch->hidden, 1},
        [TRIT_T_NORM_FFN_SUB] = {TRIT_LAYOUT_F32, arch->intermediate, 1},
        [TRIT_T_NORM_FINAL] = {TRIT_LAYOUT_F32, arch->hidden, 1},
        [TRIT_T_EMBED] = {TRIT_LAYOUT_I16_P16G4, arch->vocab, arch->hidden},
        [TRIT_T_EMBED_SHIFT] = {TRIT_LAYOUT_I8, arch->vocab, 1},
        [TRIT_T_HEAD] = {TRIT_LAYOUT_I16_P16G4, arch->vocab, arch->hidden},
        [TRIT_T_HEAD_SHIFT] = {TRIT_LAYOUT_I8, arch->vocab, 1},
        [TRIT_T_ROPE_COS] = {TRIT_LAYOUT_F32, arch->max_positions, arch->head_dim / 2},
        [TRIT_T_ROPE_SIN] = {TRIT_LAYOUT_F32, arch->max_positions, arch->head_dim / 2},
    };
    *layout = forms[kind].layout;
    *n = forms[kind].n;
    *k = forms[kind].k;
}

/* Must be there (1), may be there (0), must not be there (-1). */
static int presence(const trit_arch *arch, int32_t kind)
{
    if (kind == TRIT_T_NORM_ATTN_SUB || kind == TRIT_T_NORM_FFN_SUB)
        return arch->sub_norms ? 1 : -1;
    return kind == TRIT_T_HEAD || kind == TRIT_T_HEAD_SHIFT ? 0 : 1;
}

static trit_status check_one(const trit_arch *arch, const trit_tensor *t, size_t at, uint64_t file_bytes,
                             trit_error *err)
{
    if (t->kind < 0 || t->kind >= TRIT_T_KIND_COUNT)
        return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu: kind is %d, expected 0 to %d", at, t->kind,
                         TRIT_T_KIND_COUNT - 1);
    const char *name = kind_name(t->kind);
    int32_t first = trit_tensor_is_layered(t->kind) ? 0 : -1;
    int32_t last = trit_tensor_is_layered(t->kind) ? arch->n_layers - 1 : -1;
    if (t->layer < first || t->layer > last)
        return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu (%s): layer is %d, expected %d to %d", at, name, t->layer,
                         first, last);
    if (presence(arch, t->kind) < 0)
        return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu: %s given, but arch has no sub-norms", at, name);

    int32_t layout;
    int64_t n, k;
    expected_form(arch, t->kind, &layout, &n, &k);
    if (trit_layout_fits(t->kind, t->layout))
        layout = t->layout;
    if (t->layout != layout || t->layout_version != 1)
        return trit_fail(err, TRIT_ERR_UNSUPPORTED,
                         "tensor %zu (%s): layout %d version %d, this library knows %d version 1", at, name, t->layout,
                         t->layout_version, layout);
    if (t->n != n || t->k != k)
        return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu (%s): shape is (%lld, %lld), expected (%lld, %lld)", at,
                         name, (long long)t->n, (long long)t->k, (long long)n, (long long)k);
    uint64_t bytes = trit_layout_bytes(t->layout, n, k);
    if (bytes == 0 || t->bytes != bytes)
        return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu (%s): has %llu bytes, expected %llu", at, name,
                         (unsigned long long)t->bytes, (unsigned long long)bytes);
    if (t->offset % TRIT_ALIGN != 0)
        return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu (%s): offset is %llu, expected a multiple of %d", at, name,
                         (unsigned long long)t->offset, TRIT_ALIGN);
    if (bytes > file_bytes || t->offset > file_bytes - bytes)
        return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu (%s): %llu bytes at %llu end past the file's %llu", at, name,
                         (unsigned long long)bytes, (unsigned long long)t->offset, (unsigned long long)file_bytes);
    int scale_good = trit_tensor_is_ternary(t->kind) ? isfinite(t->scale) && t->scale >= 1e-30f : t->scale == 1.0f;
    if (!scale_good)
        return trit_fail(err, TRIT_ERR_FORMAT, "tensor %zu (%s): scale is %g, expected %s", at, name, (double)t->scale,
                         trit_tensor_is_ternary(t->kind) ? "finite and positive" : "1");
    return TRIT_OK;
}

static trit_status check_complete(const trit_arch *arch, const int32_t *index, trit_error *err)
{
    for (int32_t kind = 0; kind < TRIT_T_KIND_COUNT; kind++) {
        int32_t n = trit_tensor_is_layered(kind) ? arch->n_layers : 1;
        for (int32_t layer = 0; layer < n; layer++)
            if (presence(arch, kind) > 0 && index[(size_t)kind * (size_t)arch->n_layers + (size_t)layer] < 0)
                return trit_fail(err, TRIT_ERR_FORMAT, "tensor %s of layer %d is missing", kind_name(kind),
                                 trit_tensor_is_layered(kind) ? layer : -1);
    }
    if ((index[TRIT_T_HEAD * arch->n_layers] < 0) != (index[TRIT_T_HEAD_SHIFT * arch->n_layers] < 0))
        return trit_fail(err, TRIT_ERR_FORMAT, "head and head_shift: one is missing, expected both or neither");
    return TRIT_OK;
}

typedef struct extent {
    uint64_t offset, bytes;
    size_t at;
} extent;

static int by_offset(const void *a, const void *b)
{
    const extent *left = a, *right = b;
    return (left->offset > right->offset) - (left->offset < right->offset);
}

static trit_status check_overlap(const trit_tensor *tensors, size_t n_tensors, trit_error *err)
{
    extent *extents = trit_alloc(n_tensors, sizeof *extents);
    if (extents == NULL)
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory to check %zu tensors", n_tensors);
    for (size_t i = 0; i < n_tensors; i++)
        extents[i] = (extent){tensors[i].offset, tensors[i].bytes, i};
    qsort(extents, n_tensors, sizeof *extents, by_offset);
    trit_status status = TRIT_OK;
    for (size_t i = 1; i < n_tensors && status == TRIT_OK; i++)
        if (extents[i].offset <
            extents[i - 1].offset + extents[i - 1].bytes) /* both are inside the file: no overflow */
            status = trit_fail(err, TRIT_ERR_FORMAT, "tensors %zu and %zu overlap at byte %llu", extents[i - 1].at,
                               extents[i].at, (unsigned long long)extents[i].offset);
    trit_free(extents);
    return status;
}

trit_status trit_tensors_check(const trit_arch *arch, const trit_tensor *tensors, size_t n_tensors, uint64_t file_bytes,
                               int32_t **index, trit_error *err)
{
    size_t n_layers = (size_t)arch->n_layers, places = (size_t)TRIT_T_KIND_COUNT * n_layers;
    if (n_tensors == 0 || n_tensors > places)
        return trit_fail(err, TRIT_ERR_FORMAT, "table has %zu tensors, expected 1 to %zu", n_tensors, places);
    int32_t *found = trit_alloc(places, sizeof *found);
    if (found == NULL)
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory for the index of %zu tensors", places);
    for (size_t i = 0; i < places; i++)
        found[i] = -1;

    trit_status status = TRIT_OK;
    for (size_t i = 0; i < n_tensors; i++) {
        const trit_tensor *t = &tensors[i];
        status = check_one(arch, t, i, file_bytes, err);
        if (status != TRIT_OK)
            goto fail;
        int32_t *place = &found[(size_t)t->kind * n_layers + (t->layer < 0 ? 0 : (size_t)t->layer)];
        if (*place >= 0) {
            status = trit_fail(err, TRIT_ERR_FORMAT, "tensors %d and %zu are both %s of layer %d", *place, i,
                               kind_name(t->kind), t->layer);
            goto fail;
        }
        *place = (int32_t)i;
    }
    status = check_complete(arch, found, err);
    if (status == TRIT_OK)
        status = check_overlap(tensors, n_tensors, err);
    if (status != TRIT_OK)
        goto fail;
    *index = found;
    return TRIT_OK;

fail:
    trit_free(found);
    return status;
}

/* ---- map -------------------------------------------------------------------------------------------------------- */

trit_status trit_map_file(trit_map *out, int fd, trit_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return trit_fail(err, TRIT_ERR_IO, "descriptor %d cannot be examined: %s", fd, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return trit_fail(err, TRIT_ERR_FORMAT, "descriptor %d is not a regular file", fd);
    if (info.st_size <= 0)
        return trit_fail(err, TRIT_ERR_FORMAT, "the model file is empty");
    uint64_t file_bytes = (uint64_t)info.st_size;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (file_bytes > (uint64_t)PTRDIFF_MAX - 2 * page)
        return trit_fail(err, TRIT_ERR_FORMAT, "the model file has %llu bytes, more than can be mapped",
                         (unsigned long long)file_bytes);

    /* Reserve the file's pages and one more, then map the file over the front: what stays behind faults on any access. */
    size_t reserved = trit_round_up((size_t)file_bytes, page) + page;
    void *base = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return trit_fail(err, TRIT_ERR_MEMORY, "no address space for %zu bytes: %s", reserved, strerror(errno));
    if (mmap(base, (size_t)file_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        trit_status status = trit_fail(err, TRIT_ERR_IO, "the model file cannot be mapped: %s", strerror(errno));
        (void)munmap(base, reserved);
        return status;
    }
    *out = (trit_map){.bytes = base, .file_bytes = file_bytes, .reserved_bytes = reserved};
    return TRIT_OK;
}

void trit_map_expect(const trit_map *map, int here_and_there)
{
    (void)posix_madvise(map->bytes, (size_t)map->file_bytes, here_and_there ? POSIX_MADV_RANDOM : POSIX_MADV_NORMAL);
}

void trit_map_fetch(const uint8_t *from, size_t bytes)
{
    size_t before = (uintptr_t)from % (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *page;
    const uint8_t *start = from - before;
    memcpy(&page, &start, sizeof page); /* the call takes no pointer to const, and changes nothing */
    (void)posix_madvise(page, bytes + before, POSIX_MADV_WILLNEED);
}

void trit_map_release(trit_map *map)
{
    if (map->bytes != NULL)
        (void)munmap(map->bytes, map->reserved_bytes);
    *map = (trit_map){0};
}
