/* batch.c - see batch.h. */
#include "batch.h"
#include "mem.h"
#include "sampler.h"
#include "status.h"

static trit_status check_count(const char *name, int32_t value, int32_t most, trit_error *err)
{
    if (value >= 0 && value <= most)
        return TRIT_OK;
    return trit_fail(err, TRIT_ERR_ARGUMENT, "batch: %s is %d, expected 0 to %d", name, value, most);
}

/* Present if anything is to be read from it, and aligned for its type. */
static trit_status check_pointer(const char *name, const void *pointer, int32_t count, size_t alignment,
                                 trit_error *err)
{
    if (count == 0)
        return TRIT_OK;
    if (pointer == NULL)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "batch: %s is NULL, expected %d entries", name, count);
    if ((uintptr_t)pointer % alignment != 0)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "batch: %s is not aligned to %zu bytes", name, alignment);
    return TRIT_OK;
}

static trit_status check_shape(const trit_batch *b, const trit_batch_limits *limits, trit_error *err)
{
    trit_status status;
    if ((status = check_count("n_seqs", b->n_seqs, limits->max_seqs, err)) != TRIT_OK ||
        (status = check_count("n_rows", b->n_rows, limits->max_rows, err)) != TRIT_OK ||
        (status = check_count("n_outputs", b->n_outputs, limits->max_outputs, err)) != TRIT_OK ||
        (status = check_count("max_blocks", b->max_blocks, INT32_MAX, err)) != TRIT_OK ||
        (status = check_pointer("token_ids", b->token_ids, b->n_rows, sizeof(int32_t), err)) != TRIT_OK ||
        (status = check_pointer("cu_rows", b->cu_rows, b->n_seqs, sizeof(int32_t), err)) != TRIT_OK ||
        (status = check_pointer("start_pos", b->start_pos, b->n_seqs, sizeof(int32_t), err)) != TRIT_OK ||
        (status = check_pointer("block_tables", b->block_tables, b->n_seqs, sizeof(int32_t), err)) != TRIT_OK ||
        (status = check_pointer("outputs", b->outputs, b->n_outputs, _Alignof(trit_output), err)) != TRIT_OK)
        return status;
    if (b->n_seqs == 0 && b->n_rows != 0)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "batch: n_rows is %d, expected 0 without sequences", b->n_rows);
    for (int32_t s = 0; s < b->n_seqs; s++)
        if ((s == 0 && b->cu_rows[0] != 0) || b->cu_rows[s + 1] <= b->cu_rows[s] || b->cu_rows[s + 1] > b->n_rows)
            return trit_fail(err, TRIT_ERR_ARGUMENT,
                             "batch: cu_rows[%d..%d] is %d, %d, expected to rise from 0 to n_rows = %d", s, s + 1,
                             b->cu_rows[s], b->cu_rows[s + 1], b->n_rows);
    if (b->n_seqs > 0 && b->cu_rows[b->n_seqs] != b->n_rows)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "batch: cu_rows ends at %d, expected n_rows = %d",
                         b->cu_rows[b->n_seqs], b->n_rows);
    return TRIT_OK;
}

/* Claim a block for writing in this step. */
static trit_status claim_block(int32_t block, int32_t seq, const trit_batch_limits *limits, trit_error *err)
{
    uint64_t *writer = &limits->writers[block];
    if (*writer == limits->step)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "sequence %d: block %d is written twice in this step", seq, block);
    if (trit_kv_is_sealed(limits->kv, (size_t)block))
        return trit_fail(err, TRIT_ERR_STATE, "sequence %d: block %d is committed, invalidate it before writing", seq,
                         block);
    *writer = limits->step;
    return TRIT_OK;
}

static trit_status check_sequence(const trit_batch *b, int32_t seq, const trit_batch_limits *limits, trit_error *err)
{
    int32_t start = b->start_pos[seq], n_rows = b->cu_rows[seq + 1] - b->cu_rows[seq];
    int32_t max_positions = limits->arch->max_positions;
    if (start < 0 || start >= max_positions || n_rows > max_positions - start)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "sequence %d: %d rows from position %d, expected to end within %d",
                         seq, n_rows, start, max_positions);
    int32_t first_written = start / TRIT_BLOCK_TOKENS, last = (start + n_rows - 1) / TRIT_BLOCK_TOKENS;
    if (last >= b->max_blocks)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "sequence %d: needs %d blocks, block_tables has max_blocks = %d", seq,
                         last + 1, b->max_blocks);
    const int32_t *blocks = b->block_tables + (size_t)seq * (size_t)b->max_blocks;
    for (int32_t j = 0; j <= last; j++) {
        if (blocks[j] < 0 || (size_t)blocks[j] >= limits->kv->n_blocks)
            return trit_fail(err, TRIT_ERR_ARGUMENT, "sequence %d: block_tables[%d] is %d, expected 0 to %zu", seq, j,
                             blocks[j], limits->kv->n_blocks - 1);
        trit_status status = j >= first_written ? claim_block(blocks[j], seq, limits, err) : TRIT_OK;
        if (status != TRIT_OK)
            return status;
    }
    return TRIT_OK;
}

static trit_status check_output(const trit_batch *b, int32_t at, const trit_arch *arch, trit_error *err)
{
    const trit_output *output = &b->outputs[at];
    int32_t least_row = at == 0 ? 0 : b->outputs[at - 1].row; /* several outputs may read one row */
    if (output->row < least_row || output->row >= b->n_rows)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "output %d: row is %d, expected %d to %d, ascending", at, output->row,
                         least_row, b->n_rows - 1);
    if (output->target < -1 || output->target >= arch->vocab)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "output %d: target is %d, expected -1 to %d", at, output->target,
                         arch->vocab - 1);
    if (output->n_top < -1 || output->n_top > TRIT_MAX_TOP)
        return trit_fail(err, TRIT_ERR_ARGUMENT, "output %d: n_top is %d, expected -1 to %d", at, output->n_top,
                         TRIT_MAX_TOP);
    return output->target >= 0 ? TRIT_OK : trit_sampling_check(&output->sampling, arch->vocab, (size_t)at, err);
}

trit_status trit_batch_check(const trit_batch *b, const trit_batch_limits *limits, trit_error *err)
{
    trit_status status = check_shape(b, limits, err);
    if (status != TRIT_OK)
        return status;
    for (int32_t row = 0; row < b->n_rows; row++)
        if (b->token_ids[row] < 0 || b->token_ids[row] >= limits->arch->vocab)
            return trit_fail(err, TRIT_ERR_ARGUMENT, "row %d: token id is %d, expected 0 to %d", row, b->token_ids[row],
                             limits->arch->vocab - 1);
    for (int32_t seq = 0; seq < b->n_seqs; seq++)
        if ((status = check_sequence(b, seq, limits, err)) != TRIT_OK)
            return status;
    for (int32_t at = 0; at < b->n_outputs; at++)
        if ((status = check_output(b, at, limits->arch, err)) != TRIT_OK)
            return status;
    return TRIT_OK;
}
