/* batch.h - the checks of one step's arguments. After them nothing in the step needs to look again. */
#ifndef TRIT_BATCH_H
#define TRIT_BATCH_H

#include "kv.h"

/*
 * What the checks need besides the batch. writers (n_blocks of the KV pool): the number of the last step that wrote each block; `step`
 * is larger than all of them.
 */
typedef struct trit_batch_limits {
    const trit_arch *arch;
    const trit_kv *kv;
    int32_t max_rows, max_seqs, max_outputs;
    uint64_t step;
    uint64_t *writers;
} trit_batch_limits;

trit_status trit_batch_check(const trit_batch *batch, const trit_batch_limits *limits, trit_error *err);

#endif
