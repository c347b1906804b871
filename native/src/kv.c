/*
 * kv.c - see kv.h. The region may have been left by a process killed at any instant, so nothing in it is believed:
 *
 *  - The header's magic is written last; a header without it is as good as empty.
 *  - A record's mark is written last and cleared first. The checksum covers the block, its hash and its number, so that even a record
 *    whose mark survived a torn write does not verify.
 *
 * Memory shared by processes stays coherent when one of them dies: stores become visible in the order the atomics ask for.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "kv.h"
#include "mem.h"
#include "status.h"

enum { PAGE = 4096, REGION_VERSION = 2 };

#define REGION_MAGIC 0x3130564b54495254u /* "TRITKV01" */
#define SEALED 0x4445544c4145530au       /* a mark that zeroes and small integers are not */

typedef struct region_header {
    _Atomic uint64_t magic;
    uint64_t version, fingerprint, dtype, n_blocks, block_bytes, block_tokens;
} region_header;

typedef struct block_record {
    uint8_t hash[TRIT_HASH_BYTES];
    uint64_t checksum;
    _Atomic uint64_t mark;
    uint8_t padding[16];
} block_record;
_Static_assert(sizeof(block_record) == 64, "one record, one cache line");

static region_header *header_of(const trit_kv *kv)
{
    return (region_header *)(void *)kv->base;
}

static block_record *record_of(const trit_kv *kv, size_t block)
{
    return (block_record *)(void *)kv->records + block;
}

/* ---- sizes ------------------------------------------------------------------------------------------------------ */

static size_t part_bytes(const trit_model *model, trit_kv_dtype dtype)
{
    return (size_t)model->arch.head_dim * TRIT_BLOCK_TOKENS * 2 * trit_kv_element_bytes(dtype) +
           TRIT_BLOCK_TOKENS * 2 * sizeof(float);
}

static size_t records_bytes(size_t n_blocks)
{
    return trit_round_up(n_blocks * sizeof(block_record), PAGE);
}

trit_status trit_kv_size(const trit_model *model, int32_t n_blocks, trit_kv_dtype dtype, uint64_t *bytes,
                         trit_error *err)
{
    if (dtype != TRIT_KV_INT16 && dtype != TRIT_KV_INT8)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "dtype is %d, expected %d (int16) or %d (int8)", (int)dtype,
                         TRIT_KV_INT16, TRIT_KV_INT8);
    if (n_blocks < 1)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "n_blocks is %d, expected at least 1", n_blocks);
    uint64_t per_token_layer =
        (uint64_t)model->arch.n_kv_heads * part_bytes(model, dtype); /* both bounded: no overflow */
    uint64_t block_bytes = (uint64_t)model->arch.n_layers * per_token_layer;
    uint64_t sum = PAGE + records_bytes((size_t)n_blocks);
    if (!trit_add_product(&sum, (uint64_t)n_blocks, block_bytes) || sum > (uint64_t)PTRDIFF_MAX)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "n_blocks is %d: %d blocks of %llu bytes exceed the address space",
                         n_blocks, n_blocks, (unsigned long long)block_bytes);
    *bytes = sum;
    return TRIT_OK;
}

/* ---- attach ----------------------------------------------------------------------------------------------------- */

static void initialise(trit_kv *kv)
{
    region_header *header = header_of(kv);
    atomic_exchange(&header->magic, 0); /* an exchange, so that no later store can come first */
    for (size_t block = 0; block < kv->n_blocks; block++)
        trit_kv_unseal(kv, block);
    header->version = REGION_VERSION;
    header->fingerprint = kv->fingerprint;
    header->dtype = (uint64_t)kv->dtype;
    header->n_blocks = kv->n_blocks;
    header->block_bytes = kv->block_bytes;
    header->block_tokens = TRIT_BLOCK_TOKENS;
    atomic_store_explicit(&header->magic, REGION_MAGIC, memory_order_release);
}

static trit_status check_header(const trit_kv *kv, trit_error *err)
{
    const region_header *header = header_of(kv);
    const struct {
        const char *name;
        uint64_t got, expected;
    } fields[] = {
        {"magic", atomic_load_explicit(&header->magic, memory_order_acquire), REGION_MAGIC},
        {"version", header->version, REGION_VERSION},
        {"model fingerprint", header->fingerprint, kv->fingerprint},
        {"type of keys and values", header->dtype, (uint64_t)kv->dtype},
        {"n_blocks", header->n_blocks, kv->n_blocks},
        {"block_bytes", header->block_bytes, kv->block_bytes},
        {"block_tokens", header->block_tokens, TRIT_BLOCK_TOKENS},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (fields[i].got != fields[i].expected)
            return trit_fail(err, TRIT_ERR_FORMAT, "KV region: %s is 0x%llx, expected 0x%llx", fields[i].name,
                             (unsigned long long)fields[i].got, (unsigned long long)fields[i].expected);
    return TRIT_OK;
}

static trit_status check_region_file(int fd, uint64_t bytes, trit_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return trit_fail(err, TRIT_ERR_IO, "descriptor %d cannot be examined: %s", fd, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return trit_fail(err, TRIT_ERR_ARGUMENT, "descriptor %d is neither a memfd nor a regular file", fd);
    if (info.st_size < 0 || (uint64_t)info.st_size < bytes)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "KV region has %lld bytes, expected at least %llu",
                         (long long)info.st_size, (unsigned long long)bytes);
    return TRIT_OK;
}

trit_status trit_kv_map(trit_kv **out, const trit_model *model, int fd, int32_t n_blocks, trit_kv_dtype dtype,
                        int reset, trit_error *err)
{
    uint64_t bytes = 0;
    trit_status status = trit_kv_size(model, n_blocks, dtype, &bytes, err);
    if (status == TRIT_OK)
        status = check_region_file(fd, bytes, err);
    if (status != TRIT_OK)
        return status;
    trit_kv *kv = trit_alloc(1, sizeof *kv);
    if (kv == NULL)
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory for a KV handle");
    void *base = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        status = trit_fail(err, TRIT_ERR_MEMORY, "KV region of %llu bytes cannot be mapped: %s",
                           (unsigned long long)bytes, strerror(errno));
        goto fail;
    }
    *kv = (trit_kv){.base = base,
                    .region_bytes = (size_t)bytes,
                    .records = (uint8_t *)base + PAGE,
                    .blocks = (uint8_t *)base + PAGE + records_bytes((size_t)n_blocks),
                    .n_blocks = (size_t)n_blocks,
                    .part_bytes = part_bytes(model, dtype),
                    .n_kv_heads = (size_t)model->arch.n_kv_heads,
                    .head_dim = (size_t)model->arch.head_dim,
                    .fingerprint = model->fingerprint,
                    .dtype = dtype};
    kv->block_bytes = (size_t)model->arch.n_layers * kv->n_kv_heads * kv->part_bytes;
    if (reset || atomic_load(&header_of(kv)->magic) == 0)
        initialise(kv);
    if ((status = check_header(kv, err)) != TRIT_OK)
        goto fail;
    *out = kv;
    return TRIT_OK;

fail:
    trit_kv_unmap(kv);
    return status;
}

void trit_kv_unmap(trit_kv *kv)
{
    if (kv == NULL)
        return;
    if (kv->base != NULL)
        (void)munmap(kv->base, kv->region_bytes);
    trit_free(kv);
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

/* Over the block, under a seed of its number and the hash it is sealed with. */
static uint64_t block_checksum(const trit_kv *kv, size_t block, const uint8_t hash[TRIT_HASH_BYTES])
{
    uint64_t seed = trit_checksum_word(trit_checksum_word(kv->fingerprint, (uint64_t)kv->dtype), block);
    for (size_t i = 0; i < TRIT_HASH_BYTES; i += sizeof seed) {
        uint64_t word;
        memcpy(&word, hash + i, sizeof word);
        seed = trit_checksum_word(seed, word);
    }
    return trit_checksum(seed, kv->blocks + block * kv->block_bytes, kv->block_bytes);
}

void trit_kv_seal(trit_kv *kv, size_t block, const uint8_t hash[TRIT_HASH_BYTES])
{
    block_record *record = record_of(kv, block);
    trit_kv_unseal(kv, block);
    memcpy(record->hash, hash, TRIT_HASH_BYTES);
    record->checksum = block_checksum(kv, block, hash);
    atomic_store_explicit(&record->mark, SEALED, memory_order_release);
}

void trit_kv_unseal(trit_kv *kv, size_t block)
{
    atomic_exchange(&record_of(kv, block)->mark, 0); /* orders the clearing before the writes that follow */
}

int trit_kv_is_sealed(const trit_kv *kv, size_t block)
{
    return atomic_load_explicit(&record_of(kv, block)->mark, memory_order_acquire) == SEALED;
}

int trit_kv_is_whole(const trit_kv *kv, size_t block, uint8_t hash[TRIT_HASH_BYTES])
{
    const block_record *record = record_of(kv, block);
    uint8_t stored[TRIT_HASH_BYTES];
    if (!trit_kv_is_sealed(kv, block))
        return 0;
    memcpy(stored, record->hash, sizeof stored);
    if (block_checksum(kv, block, stored) != record->checksum)
        return 0;
    memcpy(hash, stored, sizeof stored);
    return 1;
}

void trit_kv_fill_poison(trit_kv *kv, size_t block)
{
    trit_kv_unseal(kv, block);
    /* As int16 the largest values, as float a NaN. */
    uint8_t *at = kv->blocks + block * kv->block_bytes;
    for (size_t i = 0; i < kv->block_bytes; i += 2) {
        at[i] = 0xff;
        at[i + 1] = 0x7f;
    }
}
