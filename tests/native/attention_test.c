/*
 * attention_test.c - long contexts of odd lengths, with keys and values of both types: the logits of a row are the same bits whether its
 * prompt came in one piece or in many, alone or beside another sequence, with any number of threads (which cut the chunks of a
 * long context between them) and on every instruction set; and int8 stays near int16.
 */
#include <math.h>

#include "check.h"
#include "tiny_model.h"

enum { LENGTH = 341, VOCAB = 203, BLOCKS_EACH = (LENGTH + 15) / 16, STEP_ROWS = 150, PROBES = 9 };

static const int32_t probes[PROBES] = {0, 15, 62, 63, 64, 128, 191, 255, 340};
static float truth[2][PROBES][VOCAB]; /* of int16 and of int8 */

static int32_t token_at(int32_t position)
{
    return position * 7 % VOCAB;
}

/* Rows [start, start + n) of the sequence, and of a second one in other blocks where both is set; logits of its last row. */
static void run(tiny_stack *stack, int32_t start, int32_t n, int both, float *logits)
{
    static int32_t tables[2 * BLOCKS_EACH], token_ids[2 * STEP_ROWS];
    trit_choice choices[1];
    for (int32_t i = 0; i < 2 * BLOCKS_EACH; i++)
        tables[i] = i * 5 % (2 * BLOCKS_EACH); /* 5 and 44 have no common divisor: each block once */
    for (int32_t i = 0; i < n; i++)
        token_ids[i] = token_ids[n + i] = token_at(start + i);
    const int32_t cu_rows[] = {0, n, 2 * n}, starts[] = {start, start};
    const trit_output output = {.row = both ? 2 * n - 1 : n - 1, .target = 1};
    const trit_batch batch = {.n_seqs = both ? 2 : 1,
                              .n_rows = both ? 2 * n : n,
                              .n_outputs = 1,
                              .max_blocks = BLOCKS_EACH,
                              .token_ids = token_ids,
                              .cu_rows = cu_rows,
                              .start_pos = starts,
                              .block_tables = tables,
                              .outputs = &output};
    CHECK_OK(trit_session_step(stack->session, &batch, choices, logits, err));
}

/* The prompt up to each probe in pieces of at most `piece` rows, the probe in the last of them. */
static int differs(const tiny_model *tiny, trit_isa isa, int32_t n_threads, trit_kv_dtype dtype, int32_t piece,
                   int both)
{
    static float logits[VOCAB];
    tiny_stack stack;
    int wrong = 0;
    int32_t at = 0;
    CHECK_OK(tiny_open_with(&stack, tiny, isa, n_threads, 1, dtype, err));
    for (int32_t probe = 0; probe < PROBES; probe++)
        while (at <= probes[probe]) {
            int32_t left = probes[probe] + 1 - at, n = left < piece ? left : piece;
            run(&stack, at, n, both, logits);
            at += n;
            if (at > probes[probe])
                wrong += memcmp(logits, truth[dtype == TRIT_KV_INT8][probe], sizeof logits) != 0;
        }
    tiny_close(&stack);
    return wrong;
}

static void make_truth(const tiny_model *tiny, trit_kv_dtype dtype)
{
    tiny_stack stack;
    int32_t at = 0;
    CHECK_OK(tiny_open_with(&stack, tiny, TRIT_ISA_REF, 1, 1, dtype, err));
    for (int32_t probe = 0; probe < PROBES; probe++) {
        run(&stack, at, probes[probe] + 1 - at, 0, truth[dtype == TRIT_KV_INT8][probe]);
        at = probes[probe] + 1;
    }
    tiny_close(&stack);
}

/* The two types give different bits, and nearly the same logits. */
static void check_types_agree(void)
{
    double difference = 0, size = 0;
    for (int probe = 0; probe < PROBES; probe++)
        for (int id = 0; id < VOCAB; id++) {
            difference += pow((double)(truth[1][probe][id] - truth[0][probe][id]), 2);
            size += pow((double)truth[0][probe][id], 2);
        }
    double relative = sqrt(difference / size);
    if (!CHECK(relative > 0 && relative < 0.06))
        printf("    int8 is %.4f away from int16\n", relative);
}

static void check_arch(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim)
{
    static const int32_t pieces[] = {1, 7, 64, STEP_ROWS};
    trit_arch arch = tiny_arch;
    arch.max_positions = LENGTH;
    arch.n_heads = n_heads;
    arch.n_kv_heads = n_kv_heads;
    arch.head_dim = head_dim;
    tiny_model tiny;
    CHECK(tiny_make(&tiny, &arch, 42, 1));
    for (int type = 0; type < 2; type++) {
        trit_kv_dtype dtype = type ? TRIT_KV_INT8 : TRIT_KV_INT16;
        make_truth(&tiny, dtype);
        for (int isa = TRIT_ISA_REF + 1; isa < TRIT_ISA_COUNT; isa++)
            for (int i = 0; trit_isa_supported((trit_isa)isa) && i < 4; i++)
                for (int32_t n_threads = 1; n_threads <= 5; n_threads += 2) {
                    int wrong =
                        differs(&tiny, (trit_isa)isa, n_threads, dtype, i % 2 ? pieces[i] / 2 + 1 : pieces[i], i % 2);
                    if (!CHECK(wrong == 0))
                        printf("    %s, %d threads, %d/%d heads of %d, int%d, pieces %d: %d rows differ\n",
                               trit_isa_name((trit_isa)isa), n_threads, n_heads, n_kv_heads, head_dim, type ? 8 : 16,
                               pieces[i], wrong);
                }
    }
    check_types_agree();
    tiny_drop(&tiny);
}

int main(void)
{
    check_arch(4, 2, 18);  /* Hadamard over 2 channels */
    check_arch(5, 1, 256); /* the largest head */
    check_arch(3, 3, 32);
    return CHECK_SUMMARY;
}
