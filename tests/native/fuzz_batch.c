/*
 * fuzz_batch.c - arbitrary numbers in every field of a step. The library must refuse, or run a step whose answers are ids of the vocabulary.
 * Arrays have the sizes that the limits of the session allow; how long they really are is the one thing a C caller alone can know.
 */
#include <stdlib.h>

#include "check.h"
#include "fuzz.h"
#include "tiny_model.h"

enum { MAX_ROWS = 160, MAX_SEQS = 8, MAX_COLUMNS = 16, MAX_IDS = 32 };

typedef struct arrays {
    int32_t token_ids[MAX_ROWS], cu_rows[MAX_SEQS + 1], start_pos[MAX_SEQS], tables[MAX_SEQS * MAX_COLUMNS];
    int32_t history[MAX_IDS], bias_ids[MAX_IDS], suppressed[MAX_IDS];
    float bias_values[MAX_IDS];
    uint32_t mask[7];
    trit_output outputs[MAX_ROWS];
    trit_batch batch;
} arrays;

/* Usually in [0, n), sometimes anything. */
static int32_t mostly_below(fuzz_input *in, int32_t n)
{
    uint8_t byte = fuzz_byte(in);
    return byte < 250 ? (byte | fuzz_byte(in) << 8) % n : (int32_t)fuzz_number(in);
}

/* A count of an array that has `most` entries. */
static int32_t count_up_to(fuzz_input *in, int32_t most)
{
    int32_t n = mostly_below(in, most + 1);
    return n > most ? -n : n;
}

static void fill_sampling(fuzz_input *in, arrays *a, trit_sampling *p)
{
    *p = (trit_sampling){.seed = (uint64_t)fuzz_number(in),
                         .position = mostly_below(in, 5000),
                         .temperature = fuzz_byte(in) % 4 ? 1.0f : fuzz_float(in),
                         .top_p = fuzz_byte(in) % 4 ? 0.7f : fuzz_float(in),
                         .min_p = fuzz_byte(in) % 4 ? 0.1f : fuzz_float(in),
                         .top_k = mostly_below(in, 300),
                         .repetition_penalty = fuzz_byte(in) % 4 ? 1.0f : fuzz_float(in),
                         .presence_penalty = fuzz_byte(in) % 4 ? 0.0f : fuzz_float(in),
                         .frequency_penalty = fuzz_byte(in) % 4 ? 0.0f : fuzz_float(in),
                         .history = a->history,
                         .n_history = count_up_to(in, MAX_IDS),
                         .bias_ids = a->bias_ids,
                         .bias_values = a->bias_values,
                         .n_bias = count_up_to(in, MAX_IDS),
                         .suppressed = a->suppressed,
                         .n_suppressed = count_up_to(in, MAX_IDS),
                         .mask = fuzz_byte(in) % 2 ? a->mask : NULL};
    p->n_prompt = p->n_history > 0 ? mostly_below(in, p->n_history) : 0;
}

static void fill(fuzz_input *in, arrays *a)
{
    int32_t row = 0, n_seqs = 1 + fuzz_byte(in) % MAX_SEQS, next_block = 0;
    for (int32_t i = 0; i < MAX_IDS; i++) {
        a->history[i] = mostly_below(in, 203);
        a->bias_ids[i] = mostly_below(in, 203);
        a->suppressed[i] = mostly_below(in, 203);
        a->bias_values[i] = fuzz_byte(in) < 250 ? 1.5f : fuzz_float(in);
    }
    for (int32_t s = 0; s < n_seqs; s++) {
        int32_t n = 1 + fuzz_byte(in) % 20;
        a->start_pos[s] = mostly_below(in, 200);
        a->cu_rows[s] = fuzz_byte(in) < 250 ? row : (int32_t)fuzz_number(in);
        for (int32_t i = 0; i < n && row < MAX_ROWS; i++)
            a->token_ids[row++] = mostly_below(in, 203);
        for (int32_t j = 0; j < MAX_COLUMNS; j++) /* mostly different blocks */
            a->tables[s * MAX_COLUMNS + j] =
                fuzz_byte(in) < 250 ? next_block++ % TINY_BLOCKS : (int32_t)fuzz_number(in);
    }
    a->cu_rows[n_seqs] = row;
    int32_t n_outputs = fuzz_byte(in) % 5;
    for (int32_t i = 0; i < n_outputs; i++) {
        a->outputs[i] = (trit_output){.row = mostly_below(in, row),
                                      .target = fuzz_byte(in) % 2 ? -1 : mostly_below(in, 203),
                                      .n_top = mostly_below(in, 21)};
        fill_sampling(in, a, &a->outputs[i].sampling);
    }
    a->batch = (trit_batch){.n_seqs = fuzz_byte(in) < 250 ? n_seqs : (int32_t)fuzz_number(in),
                            .n_rows = fuzz_byte(in) < 250 ? row : (int32_t)fuzz_number(in),
                            .n_outputs = fuzz_byte(in) < 250 ? n_outputs : (int32_t)fuzz_number(in),
                            .max_blocks = MAX_COLUMNS - fuzz_byte(in) % 2 * 8,
                            .token_ids = a->token_ids,
                            .cu_rows = a->cu_rows,
                            .start_pos = a->start_pos,
                            .block_tables = a->tables,
                            .outputs = a->outputs};
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static tiny_model tiny;
    static tiny_stack stack;
    static arrays a;
    static trit_choice choices[MAX_ROWS];
    fuzz_input in = {bytes, n};
    trit_error err;
    if (stack.session == NULL &&
        (!tiny_make(&tiny, &tiny_arch, 42, 1) || tiny_open(&stack, &tiny, TRIT_ISA_AUTO, 2, &err) != TRIT_OK))
        abort();
    memset(&a, 0, sizeof a);
    fill(&in, &a);
    if (trit_session_step(stack.session, &a.batch, choices, NULL, &err) != TRIT_OK)
        return 0;
    for (int32_t i = 0; i < a.batch.n_outputs; i++)
        if (choices[i].token < TRIT_TOKEN_NONE || choices[i].token >= 203)
            abort();
    return 0;
}
