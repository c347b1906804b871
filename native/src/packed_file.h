/*
 * packed_file.h - maps a packed model file and checks its tensor table. The table and the file may come from hostile hands: nothing
 * is read through an offset that was not checked first.
 */
#ifndef TRIT_PACKED_FILE_H
#define TRIT_PACKED_FILE_H

#include "trit/trit.h"

typedef struct trit_map {
    uint8_t *bytes;
    uint64_t file_bytes;
    size_t reserved_bytes; /* the file's pages and one inaccessible page behind them */
} trit_map;

/* Every dimension within the bounds that keep all later sizes and int32 accumulators exact. */
trit_status trit_arch_check(const trit_arch *arch, trit_error *err);

/* Is `kind` a tensor of every layer, and what must its layout and shape be? */
int trit_tensor_is_layered(int32_t kind);
int trit_tensor_is_ternary(int32_t kind);
/* May a tensor of this kind come in this ternary layout? */
int trit_layout_fits(int32_t kind, int32_t layout);

/*
 * Every tensor that `arch` needs, exactly once, with its only layout and shape, inside file_bytes, overlapping no other. On success
 * index[kind * n_layers + layer] (layer 0 for whole-model tensors) is the tensor's place in the table, or -1; the caller
 * frees it with trit_free. An absent TRIT_T_HEAD means a tied head.
 */
trit_status trit_tensors_check(const trit_arch *arch, const trit_tensor *tensors, size_t n_tensors, uint64_t file_bytes,
                               int32_t **index, trit_error *err);

/* fd stays the caller's. */
trit_status trit_map_file(trit_map *out, int fd, trit_error *err);
/* Whether the mapping will be read here and there, so that the system must not read ahead (megabytes, at every look), or as a stream. */
void trit_map_expect(const trit_map *map, int here_and_there);
/* Start reading [from, from + bytes) of a mapping from the disk. */
void trit_map_fetch(const uint8_t *from, size_t bytes);
void trit_map_release(trit_map *map);

#endif
