/*
 * forward_test.c - the promise of docs/numerics.md on a random tiny model, logits compared bit for bit:
 * prefill == decode == chunked prefill == any mixed batch, on any number of threads, on every instruction set this CPU has, with blocks in
 * any order, in memory that held poison.
 *
 * One sequence prefilled in one step by the reference kernels on one thread is the truth; every other way to compute is compared with it.
 */
#include <stdlib.h>

#include "check.h"
#include "drawn.h"
#include "tiny_model.h"

enum { N_SEQS = 4, LENGTH = 150, MAX_BLOCKS = (LENGTH + TRIT_BLOCK_TOKENS - 1) / TRIT_BLOCK_TOKENS, VOCAB = 203 };
_Static_assert(N_SEQS *MAX_BLOCKS <= TINY_BLOCKS, "every sequence has its own blocks");

static int32_t tokens[N_SEQS][LENGTH];
static float truth[N_SEQS][LENGTH][VOCAB];

/* A batch under construction, with room for everything. */
typedef struct builder {
    int32_t token_ids[160], cu_rows[N_SEQS + 1], start_pos[N_SEQS], tables[N_SEQS * MAX_BLOCKS];
    trit_output outputs[160];
    int32_t seq_of[160], position_of[160]; /* of each row */
    trit_batch batch;
} builder;

static void begin(builder *b)
{
    b->batch = (trit_batch){.max_blocks = MAX_BLOCKS,
                            .token_ids = b->token_ids,
                            .cu_rows = b->cu_rows,
                            .start_pos = b->start_pos,
                            .block_tables = b->tables,
                            .outputs = b->outputs};
    b->cu_rows[0] = 0;
}

/* Rows of sequence `seq` at positions start .. start + n - 1, all with outputs. */
static void add_rows(builder *b, int32_t seq, int32_t start, int32_t n, const int32_t *blocks)
{
    trit_batch *batch = &b->batch;
    memcpy(&b->tables[batch->n_seqs * MAX_BLOCKS], blocks, MAX_BLOCKS * sizeof *blocks);
    b->start_pos[batch->n_seqs] = start;
    for (int32_t i = 0; i < n; i++) {
        int32_t row = batch->n_rows++;
        b->token_ids[row] = tokens[seq][start + i];
        b->seq_of[row] = seq;
        b->position_of[row] = start + i;
        b->outputs[row] = (trit_output){.row = row, .target = 0};
    }
    b->cu_rows[++batch->n_seqs] = batch->n_rows;
    batch->n_outputs = batch->n_rows;
}

/* Step and count rows whose logits differ from the truth. */
static int32_t wrong_rows(trit_session *session, builder *b)
{
    static trit_choice choices[160];
    static float logits[160 * VOCAB];
    int32_t wrong = 0;
    trit_error err = {.text = ""};
    if (trit_session_step(session, &b->batch, choices, logits, &err) != TRIT_OK) {
        printf("    step refused: %s\n", err.text);
        return b->batch.n_rows;
    }
    for (int32_t row = 0; row < b->batch.n_rows; row++)
        wrong += memcmp(&logits[row * VOCAB], truth[b->seq_of[row]][b->position_of[row]], sizeof truth[0][0]) != 0;
    return wrong;
}

static void fresh_blocks(tiny_stack *stack, int32_t blocks[TINY_BLOCKS], uint64_t *state)
{
    for (int32_t i = 0; i < TINY_BLOCKS; i++) {
        blocks[i] = i;
        CHECK_OK(trit_kv_poison(stack->kv, i, err));
    }
    for (int32_t i = TINY_BLOCKS - 1; i > 0; i--) { /* shuffled */
        int32_t j = check_below(state, i + 1), swap = blocks[i];
        blocks[i] = blocks[j];
        blocks[j] = swap;
    }
}

/* One sequence in pieces of `piece` rows, with and without skipping what is zero. */
static void check_pieces(const tiny_model *tiny, trit_isa isa, int32_t n_threads, int32_t piece, int skip)
{
    static builder b;
    tiny_stack stack;
    int32_t blocks[TINY_BLOCKS], wrong = 0;
    uint64_t state = (uint64_t)piece;
    CHECK_OK(tiny_open_with(&stack, tiny, isa, n_threads, skip, TRIT_KV_INT16, err));
    fresh_blocks(&stack, blocks, &state);
    for (int32_t start = 0; start < LENGTH; start += piece) {
        begin(&b);
        add_rows(&b, 0, start, LENGTH - start < piece ? LENGTH - start : piece, blocks);
        wrong += wrong_rows(stack.session, &b);
    }
    if (!CHECK(wrong == 0))
        printf("    %s, %d threads, pieces of %d, skipping %d: %d rows differ\n", trit_isa_name(isa), n_threads, piece,
               skip, wrong);
    trit_session_stats stats;
    trit_session_read_stats(stack.session, &stats);
    int skips = skip && tiny->ternary_layout == TRIT_LAYOUT_T2_ROWS && tiny->arch.activation == TRIT_ACT_RELU2;
    CHECK(skips ? stats.gates_closed > stats.gates / 4 && stats.gates_closed < stats.gates : stats.gates_closed == 0);
    CHECK(skips || (skip && tiny->ternary_layout == TRIT_LAYOUT_T2_ROWS) ? stats.bytes_skipped > 0 || piece > 4
                                                                         : stats.bytes_skipped == 0);
    tiny_close(&stack);
}

/* Four sequences, each step a random choice of them with random numbers of rows. */
static void check_mixed(const tiny_model *tiny, trit_isa isa, int32_t n_threads, uint64_t seed)
{
    static builder b;
    tiny_stack stack;
    int32_t blocks[TINY_BLOCKS], done[N_SEQS] = {0}, left = N_SEQS * LENGTH, wrong = 0;
    uint64_t state = seed;
    CHECK_OK(tiny_open(&stack, tiny, isa, n_threads, err));
    fresh_blocks(&stack, blocks, &state);
    while (left > 0) {
        begin(&b);
        for (int32_t seq = 0; seq < N_SEQS; seq++) {
            int32_t most = check_below(&state, 2) ? 1 : 40, remaining = LENGTH - done[seq];
            int32_t n = check_below(&state, most + 1);
            n = n < remaining ? n : remaining;
            if (n == 0)
                continue;
            add_rows(&b, seq, done[seq], n, blocks + seq * MAX_BLOCKS);
            done[seq] += n;
            left -= n;
        }
        wrong += wrong_rows(stack.session, &b);
    }
    if (!CHECK(wrong == 0))
        printf("    %s, %d threads, seed %llu: %d rows differ\n", trit_isa_name(isa), n_threads,
               (unsigned long long)seed, wrong);
    tiny_close(&stack);
}

static void make_truth(const tiny_model *tiny)
{
    static builder b;
    static trit_choice choices[LENGTH];
    static const int32_t blocks[MAX_BLOCKS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    uint64_t state = 11;
    for (int32_t seq = 0; seq < N_SEQS; seq++) {
        tiny_stack stack;
        for (int32_t i = 0; i < LENGTH; i++)
            tokens[seq][i] = check_below(&state, tiny->arch.vocab);
        CHECK_OK(tiny_open(&stack, tiny, TRIT_ISA_REF, 1, err));
        begin(&b);
        add_rows(&b, seq, 0, LENGTH, blocks);
        CHECK_OK(trit_session_step(stack.session, &b.batch, choices, truth[seq][0], err));
        tiny_close(&stack);
    }
    CHECK(truth[0][0][0] != 0.0f && memcmp(truth[0][7], truth[1][7], sizeof truth[0][7]) != 0);
}

/* The chosen token is where the largest logit is; a scored one has its log-probability; an output may share its row. */
static void check_outputs(const tiny_model *tiny)
{
    static builder b;
    static const int32_t blocks[MAX_BLOCKS] = {3, 1, 4, 15, 9, 2, 6, 5, 35, 8};
    tiny_stack stack;
    trit_choice choices[3];
    CHECK_OK(tiny_open(&stack, tiny, TRIT_ISA_AUTO, 2, err));
    begin(&b);
    add_rows(&b, 0, 0, 20, blocks);
    const trit_sampling greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f};
    b.outputs[0] = (trit_output){.row = 19, .target = -1, .n_top = 2, .sampling = greedy};
    b.outputs[1] = (trit_output){.row = 19, .target = 5, .n_top = 20};
    b.outputs[2] = (trit_output){.row = 19, .target = -1, .sampling = greedy};
    b.batch.n_outputs = 3;
    CHECK_OK(trit_session_step(stack.session, &b.batch, choices, NULL, err));
    int32_t best = 0;
    for (int32_t id = 1; id < VOCAB; id++)
        best = truth[0][19][id] > truth[0][19][best] ? id : best;
    CHECK(choices[0].token == best && choices[0].n_top == 2 && choices[0].top_ids[0] == best);
    CHECK(choices[0].top_logprobs[0] == choices[0].logprob && choices[0].logprob < 0.0f);
    CHECK(choices[1].token == 5 && choices[1].n_top == 20);
    CHECK(choices[2].token == best && choices[2].n_top == 0 && choices[2].logprob == choices[0].logprob);
    trit_session_stats stats;
    trit_session_read_stats(stack.session, &stats);
    CHECK(stats.steps == 1 && stats.rows == 20 && stats.down_inputs == 20u * 2 * 132 &&
          stats.down_zeros < stats.down_inputs);
    tiny_close(&stack);
    volatile float denormal = 1e-40f; /* the caller's float mode is as it was */
    CHECK(denormal * 0.5f > 0.0f);
}

/* FNV-1a over the bits of every logit. */
static uint64_t truth_hash(void)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof truth; i++)
        hash = (hash ^ ((const unsigned char *)truth)[i]) * 0x100000001b3u;
    return hash;
}

/* Under ThreadSanitizer only the best: the threads are the same whatever they compute, and the reference takes minutes there. */
static int is_run(trit_isa isa)
{
#if defined(__SANITIZE_THREAD__)
    return isa == trit_isa_best();
#else
    return trit_isa_supported(isa);
#endif
}

/* golden: the truth is the same on every machine and with every compiler. A change of it is a new numeric class. */
static void check_everything(const trit_arch *arch, int tied, uint64_t golden)
{
    static const int32_t pieces[] = {1, 3, 15, 16, 17, 64, 149, 150};
    tiny_model tiny, panels; /* the same weights */
    CHECK(tiny_make(&tiny, arch, 42, tied));
    CHECK(tiny_make_panels(&panels, arch, 42, tied));
    make_truth(&tiny);
    if (!CHECK(truth_hash() == golden))
        printf("    truth is 0x%016llx\n", (unsigned long long)truth_hash());
    for (int isa = TRIT_ISA_REF; isa < TRIT_ISA_COUNT; isa++) {
        if (!is_run((trit_isa)isa))
            continue;
        for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++)
            check_pieces(&tiny, (trit_isa)isa, 1 + (int32_t)i % 3, pieces[i], 1);
        for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i += 4) { /* 1 and 17 */
            check_pieces(&tiny, (trit_isa)isa, 1 + (int32_t)i % 3, pieces[i], 0);
            check_pieces(&panels, (trit_isa)isa, 1 + (int32_t)i % 3, pieces[i], 1);
        }
        for (int32_t n_threads = 1; n_threads <= 8; n_threads++)
            check_mixed(&tiny, (trit_isa)isa, n_threads, (uint64_t)(100 * n_threads + isa));
    }
    check_outputs(&tiny);
    tiny_drop(&tiny);

    tiny_model dense; /* the packing must not show */
    CHECK(tiny_make_dense(&dense, arch, 42, tied));
    for (int isa = TRIT_ISA_REF; isa <= TRIT_ISA_NEON; isa++)
        for (size_t i = 0; is_run((trit_isa)isa) && i < sizeof pieces / sizeof pieces[0]; i += 2)
            check_pieces(&dense, (trit_isa)isa, 1 + (int32_t)i % 3, pieces[i], 1);
    tiny_drop(&dense);
    tiny_drop(&panels);
}

/* ---- screening -------------------------------------------------------------------------------------------------- */

enum { WIDE_VOCAB = 4003, SCREEN_STEPS = 40 };

/* Which of a step's outputs want log-probabilities. */
typedef enum asker { NONE_WANT, ALL_WANT, SOME_WANT, WISHES } asker;

static void step_with(trit_session *session, builder *b, asker wish, const drawn *d, int32_t start,
                      trit_choice *choices)
{
    static const int32_t blocks[N_SEQS][MAX_BLOCKS] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {10, 11, 12}, {20, 21, 22}, {30, 31, 32}};
    begin(b);
    for (int32_t seq = 0; seq < N_SEQS; seq++)
        add_rows(b, seq, start, 1, blocks[seq]);
    for (int32_t seq = 0; seq < N_SEQS; seq++) {
        int wants = wish == ALL_WANT || (wish == SOME_WANT && (seq + start) % 2);
        b->outputs[seq] = (trit_output){.row = seq, .target = -1, .n_top = wants ? 2 : -1, .sampling = d[seq].p};
    }
    /* A second choice of the last row: both outputs read one row of logits. */
    b->outputs[N_SEQS] = b->outputs[N_SEQS - 1];
    b->outputs[N_SEQS].sampling.seed++;
    b->batch.n_outputs = N_SEQS + 1;
    CHECK_OK(trit_session_step(session, &b->batch, choices, NULL, err));
}

/* Whether log-probabilities are wanted, by whom, and how many threads run: the tokens are the same, and so are the log-probabilities. */
static void check_screening(const trit_arch *arch, int tied, trit_isa isa, int32_t n_threads)
{
    static builder b;
    static drawn d[N_SEQS];
    trit_arch wide = *arch;
    tiny_model tiny;
    tiny_stack stacks[WISHES];
    trit_session_stats stats[WISHES];
    uint64_t state = 99;
    int32_t wrong = 0;
    wide.vocab = WIDE_VOCAB;
    if (!CHECK(tiny_make(&tiny, &wide, 5, tied)))
        return;
    for (int wish = 0; wish < WISHES; wish++)
        CHECK_OK(tiny_open(&stacks[wish], &tiny, isa, wish == ALL_WANT ? 1 : n_threads, err));
    for (int32_t at = 0; at < SCREEN_STEPS; at++) {
        trit_choice choices[WISHES][N_SEQS + 1] = {0};
        for (int32_t seq = 0; seq < N_SEQS; seq++) {
            draw_sampling(&d[seq], WIDE_VOCAB, &state);
            if ((at + seq) % 16 == 0) { /* so flat that no bound tells */
                d[seq].p.temperature = 1e4f;
                d[seq].p.top_p = 0.5f;
                d[seq].p.min_p = 0.0f;
                d[seq].p.top_k = 0;
            }
        }
        for (int wish = 0; wish < WISHES; wish++)
            step_with(stacks[wish].session, &b, (asker)wish, d, at, choices[wish]);
        for (int32_t i = 0; i <= N_SEQS; i++) {
            const trit_choice *want = &choices[ALL_WANT][i], *some = &choices[SOME_WANT][i];
            wrong += want->token != choices[NONE_WANT][i].token || want->token != some->token;
            wrong += some->n_top > 0 && memcmp(want, some, sizeof *want) != 0;
        }
    }
    CHECK(wrong == 0);
    for (int wish = 0; wish < WISHES; wish++) {
        trit_session_read_stats(stacks[wish].session, &stats[wish]);
        tiny_close(&stacks[wish]);
    }
    CHECK(stats[ALL_WANT].screened_rows == 0 && stats[ALL_WANT].head_rows == N_SEQS * SCREEN_STEPS);
    CHECK(stats[NONE_WANT].screened_rows == N_SEQS * SCREEN_STEPS && stats[NONE_WANT].finished_panels > 0);
    CHECK(stats[NONE_WANT].undecided_rows >= 5 && stats[NONE_WANT].undecided_rows < N_SEQS * SCREEN_STEPS / 2);
    CHECK(stats[SOME_WANT].screened_rows == N_SEQS * SCREEN_STEPS / 2);
    CHECK(stats[NONE_WANT].head_bytes < stats[ALL_WANT].head_bytes);
    tiny_drop(&tiny);
}

int main(void)
{
    check_everything(&tiny_arch, 1, 0xf5d77e816b5ac731u);
    trit_arch plain = tiny_arch;
    plain.sub_norms = 0;
    plain.activation = TRIT_ACT_SILU;
    plain.n_heads = plain.n_kv_heads = 3;
    plain.head_dim = 32;
    check_everything(&plain, 0, 0x17f3835f9879c1f6u);
    for (int isa = TRIT_ISA_REF; isa < TRIT_ISA_COUNT; isa++)
        printf("instruction set %s: %s\n", trit_isa_name((trit_isa)isa), is_run((trit_isa)isa) ? "run" : "not run");
    check_screening(&tiny_arch, 1, TRIT_ISA_AUTO, 3);
    check_screening(&tiny_arch, 0, TRIT_ISA_REF, 1);
    return CHECK_SUMMARY;
}
