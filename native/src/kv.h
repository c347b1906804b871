/*
 * kv.h - the paged KV pool: where a block lies in the shared region, and what survives the process.
 *
 *      region   [header: 4096 bytes][record 0] .. [record n-1][padding to 4096][block 0] .. [block n-1]
 *      record   chain hash (32), checksum (8), mark (8), padding to 64 bytes
 *      block    [layer][kv head] of: K [d/2][16 tokens][2] | V [8][d][2] | k_scale [16] float | v_scale [16] float
 *
 * d = head_dim; K and V are int16 or int8, one type for the region. K starts at a multiple of 64 bytes, V and the scales at one of 32 (d is
 * even), and what attention reads of one (layer, KV head) is adjacent.
 */
#ifndef TRIT_KV_H
#define TRIT_KV_H

#include "model.h"

struct trit_kv {
    uint8_t *base; /* of the region */
    size_t region_bytes;
    uint8_t *records, *blocks;
    size_t n_blocks, block_bytes;
    size_t part_bytes; /* of one (layer, KV head) */
    size_t n_kv_heads, head_dim;
    uint64_t fingerprint; /* of the model the blocks belong to */
    trit_kv_dtype dtype;
};

static inline size_t trit_kv_element_bytes(trit_kv_dtype dtype)
{
    return dtype == TRIT_KV_INT8 ? sizeof(int8_t) : sizeof(int16_t);
}

/* The four arrays of one (block, layer, KV head). */
typedef struct trit_kv_part {
    void *k, *v; /* of kv->dtype */
    float *k_scale, *v_scale;
} trit_kv_part;

static inline trit_kv_part trit_kv_part_at(const trit_kv *kv, size_t block, size_t layer, size_t kv_head)
{
    uint8_t *at = kv->blocks + block * kv->block_bytes + (layer * kv->n_kv_heads + kv_head) * kv->part_bytes;
    size_t half_bytes = kv->head_dim * TRIT_BLOCK_TOKENS * trit_kv_element_bytes(kv->dtype);
    return (trit_kv_part){.k = at,
                          .v = at + half_bytes,
                          .k_scale = (float *)(void *)(at + 2 * half_bytes),
                          .v_scale = (float *)(void *)(at + 2 * half_bytes) + TRIT_BLOCK_TOKENS};
}

/* The functions of trit.h behind these do the checks of arguments; block is in range. */
trit_status trit_kv_size(const trit_model *model, int32_t n_blocks, trit_kv_dtype dtype, uint64_t *bytes,
                         trit_error *err);
trit_status trit_kv_map(trit_kv **out, const trit_model *model, int fd, int32_t n_blocks, trit_kv_dtype dtype,
                        int reset, trit_error *err);
void trit_kv_unmap(trit_kv *kv);
void trit_kv_seal(trit_kv *kv, size_t block, const uint8_t hash[TRIT_HASH_BYTES]);
void trit_kv_unseal(trit_kv *kv, size_t block);
int trit_kv_is_sealed(const trit_kv *kv, size_t block);
int trit_kv_is_whole(const trit_kv *kv, size_t block, uint8_t hash[TRIT_HASH_BYTES]);
void trit_kv_fill_poison(trit_kv *kv, size_t block);

#endif
