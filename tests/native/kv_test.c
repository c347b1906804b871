/*
 * kv_test.c - the KV region as a crash may leave it: what is whole is adopted with its contents, what is torn, stale or another model's
 * is not. The test maps the region itself to damage it.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "kv.h"
#include "tiny_model.h"

enum { ROWS = 40, VOCAB = 203 };

static const int32_t blocks[3] = {7, 2, 30};
static const uint8_t hash_a[32] = {1, 2, 3}, hash_b[32] = {9, 9, 9};

static trit_status run_rows(tiny_stack *stack, int32_t start, int32_t n, float *logits, trit_error *err)
{
    static trit_choice choices[ROWS];
    int32_t token_ids[ROWS], cu_rows[2] = {0, n};
    trit_output outputs[ROWS];
    for (int32_t i = 0; i < n; i++) {
        token_ids[i] = (start + i) * 5 % VOCAB;
        outputs[i] = (trit_output){.row = i, .target = 1};
    }
    const trit_batch batch = {.n_seqs = 1,
                              .n_rows = n,
                              .n_outputs = n,
                              .max_blocks = 3,
                              .token_ids = token_ids,
                              .cu_rows = cu_rows,
                              .start_pos = &start,
                              .block_tables = blocks,
                              .outputs = outputs};
    return trit_session_step(stack->session, &batch, choices, logits, err);
}

static int is_whole(const trit_kv *kv, int32_t block, uint8_t hash[32])
{
    int32_t whole = -1;
    CHECK_OK(trit_kv_verify(kv, block, &whole, hash, err));
    return whole;
}

/* A second process: the same model, the same memory, a fresh handle. */
static void check_adoption(const tiny_model *tiny)
{
    static float truth[ROWS * VOCAB], again[ROWS * VOCAB];
    const trit_session_options options = {.n_threads = 2, .max_rows = 64, .max_seqs = 2, .max_outputs = 64};
    tiny_stack stack;
    uint8_t hash[32];
    CHECK_OK(tiny_open(&stack, tiny, TRIT_ISA_AUTO, 2, err));
    CHECK_OK(run_rows(&stack, 0, ROWS, truth, err));
    CHECK(!is_whole(stack.kv, blocks[0], hash));
    CHECK_OK(trit_kv_commit(stack.kv, blocks[0], hash_a, err));
    CHECK_OK(trit_kv_commit(stack.kv, blocks[1], hash_b, err));
    CHECK_REFUSED(TRIT_ERR_STATE, run_rows(&stack, 16, 16, NULL, err)); /* sealed: not without invalidating */
    trit_session_destroy(&stack.session);
    trit_kv_detach(&stack.kv);

    CHECK_OK(trit_kv_attach(&stack.kv, stack.model, stack.kv_fd, TINY_BLOCKS, TRIT_KV_INT16, 0, err));
    CHECK(is_whole(stack.kv, blocks[0], hash) && memcmp(hash, hash_a, 32) == 0);
    CHECK(is_whole(stack.kv, blocks[1], hash) && memcmp(hash, hash_b, 32) == 0);
    CHECK(!is_whole(stack.kv, blocks[2], hash));
    CHECK_OK(trit_session_create(&stack.session, stack.model, stack.kv, &options, err));
    CHECK_OK(run_rows(&stack, 32, 8, again, err));
    CHECK(memcmp(again, truth + 32 * VOCAB, 8 * VOCAB * sizeof *again) == 0);
    CHECK_OK(trit_kv_invalidate(stack.kv, blocks[1], err));
    CHECK(!is_whole(stack.kv, blocks[1], hash));
    CHECK_OK(run_rows(&stack, 16, 16, again, err));
    CHECK(memcmp(again, truth + 16 * VOCAB, 16 * VOCAB * sizeof *again) == 0);
    tiny_close(&stack);
}

/* Every 8 bytes of block, hash, checksum: a change must not verify. */
static void check_damage(const tiny_model *tiny)
{
    tiny_stack stack;
    uint8_t hash[32];
    int missed = 0;
    CHECK_OK(tiny_open(&stack, tiny, TRIT_ISA_AUTO, 1, err));
    CHECK_OK(run_rows(&stack, 0, 16, NULL, err));
    CHECK_OK(trit_kv_commit(stack.kv, blocks[0], hash_a, err));
    uint8_t *block = stack.kv->blocks + (size_t)blocks[0] * stack.kv->block_bytes;
    uint8_t *record = stack.kv->records + (size_t)blocks[0] * 64;
    for (size_t i = 0; i < stack.kv->block_bytes + 48; i += 3) {
        uint8_t *at = i < stack.kv->block_bytes ? block + i : record + (i - stack.kv->block_bytes);
        *at ^= 0x10;
        missed += is_whole(stack.kv, blocks[0], hash);
        *at ^= 0x10;
    }
    CHECK(missed == 0);
    CHECK(is_whole(stack.kv, blocks[0], hash));

    /* A record and its block copied to another place do not verify there. */
    memcpy(stack.kv->records + 64 * 3, record, 64);
    memcpy(stack.kv->blocks + stack.kv->block_bytes * 3, block, stack.kv->block_bytes);
    CHECK(!is_whole(stack.kv, 3, hash));
    CHECK_OK(trit_kv_poison(stack.kv, blocks[0], err));
    CHECK(!is_whole(stack.kv, blocks[0], hash));
    tiny_close(&stack);
}

static void check_headers(const tiny_model *tiny)
{
    tiny_stack stack;
    tiny_model other;
    trit_kv *kv = NULL;
    uint8_t hash[32];
    CHECK(tiny_make(&other, &tiny_arch, 43, 1));
    CHECK_OK(tiny_open(&stack, tiny, TRIT_ISA_AUTO, 1, err));
    CHECK_OK(run_rows(&stack, 0, 16, NULL, err));
    CHECK_OK(trit_kv_commit(stack.kv, blocks[0], hash_a, err));

    tiny_stack foreign;
    CHECK_OK(tiny_open(&foreign, &other, TRIT_ISA_AUTO, 1, err));
    CHECK_REFUSED(TRIT_ERR_FORMAT, trit_kv_attach(&kv, foreign.model, stack.kv_fd, TINY_BLOCKS, TRIT_KV_INT16, 0, err));
    CHECK_REFUSED(TRIT_ERR_FORMAT,
                  trit_kv_attach(&kv, stack.model, stack.kv_fd, TINY_BLOCKS - 1, TRIT_KV_INT16, 0, err));
    const trit_session_options options = {.n_threads = 1, .max_rows = 1, .max_seqs = 1, .max_outputs = 1};
    /* Keys and values of another type: refused by name, whatever the sizes. */
    uint64_t narrow = 0, wide = 0;
    CHECK_OK(trit_kv_region_bytes(stack.model, TINY_BLOCKS, TRIT_KV_INT8, &narrow, err));
    CHECK_OK(trit_kv_region_bytes(stack.model, TINY_BLOCKS, TRIT_KV_INT16, &wide, err));
    CHECK(narrow < wide);
    trit_error why = {.status = TRIT_OK};
    CHECK(trit_kv_attach(&kv, stack.model, stack.kv_fd, TINY_BLOCKS, TRIT_KV_INT8, 0, &why) == TRIT_ERR_FORMAT);
    CHECK(strstr(why.text, "type of keys and values") != NULL);
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_kv_attach(&kv, stack.model, stack.kv_fd, TINY_BLOCKS, (trit_kv_dtype)2, 0, err));
    trit_session *session = NULL;
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_create(&session, foreign.model, stack.kv, &options, err));
    CHECK(kv == NULL && session == NULL);

    /* A header torn while it was being written has no magic yet: records left behind do not count. */
    memset(stack.kv->base, 0, 8);
    CHECK_OK(trit_kv_attach(&kv, stack.model, stack.kv_fd, TINY_BLOCKS, TRIT_KV_INT16, 0, err));
    CHECK(!is_whole(kv, blocks[0], hash));
    trit_kv_detach(&kv);
    stack.kv->base[9] ^= 1; /* another version */
    CHECK_REFUSED(TRIT_ERR_FORMAT, trit_kv_attach(&kv, stack.model, stack.kv_fd, TINY_BLOCKS, TRIT_KV_INT16, 0, err));
    CHECK_OK(trit_kv_attach(&kv, foreign.model, stack.kv_fd, TINY_BLOCKS, TRIT_KV_INT16, 1, err)); /* reset */
    CHECK(!is_whole(kv, blocks[0], hash));
    trit_kv_detach(&kv);
    tiny_close(&foreign);
    tiny_close(&stack);
    tiny_drop(&other);
}

/* After poison, a step leaves zeros in the lanes that it has not written. */
static void check_unused_lanes_are_zero(const tiny_model *tiny, trit_kv_dtype dtype)
{
    tiny_stack stack;
    int nonzero = 0;
    CHECK_OK(tiny_open_with(&stack, tiny, TRIT_ISA_AUTO, 1, 1, dtype, err));
    for (int32_t i = 0; i < 3; i++)
        CHECK_OK(trit_kv_poison(stack.kv, blocks[i], err));
    CHECK_OK(run_rows(&stack, 0, 5, NULL, err));
    size_t d = stack.kv->head_dim, width = trit_kv_element_bytes(dtype);
    for (size_t layer = 0; layer < 2; layer++)
        for (size_t head = 0; head < stack.kv->n_kv_heads; head++) {
            trit_kv_part part = trit_kv_part_at(stack.kv, (size_t)blocks[0], layer, head);
            const uint8_t *k = part.k, *v = part.v;
            for (size_t lane = 5; lane < TRIT_BLOCK_TOKENS; lane++) {
                for (size_t byte = 0; byte < d * width; byte++) {
                    size_t j = byte / width, rest = byte % width;
                    nonzero += k[((j / 2 * TRIT_BLOCK_TOKENS + lane) * 2 + j % 2) * width + rest] != 0 ||
                               v[((lane / 2 * d + j) * 2 + lane % 2) * width + rest] != 0;
                }
                nonzero += part.k_scale[lane] != 0.0f || part.v_scale[lane] != 0.0f;
            }
        }
    CHECK(nonzero == 0);
    tiny_close(&stack);
}

int main(void)
{
    tiny_model tiny;
    CHECK(tiny_make(&tiny, &tiny_arch, 42, 1));
    check_adoption(&tiny);
    check_damage(&tiny);
    check_headers(&tiny);
    check_unused_lanes_are_zero(&tiny, TRIT_KV_INT16);
    check_unused_lanes_are_zero(&tiny, TRIT_KV_INT8);
    tiny_drop(&tiny);
    return CHECK_SUMMARY;
}
