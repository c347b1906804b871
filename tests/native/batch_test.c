/*
 * batch_test.c - trit_session_step and trit_sample called wrongly: every field of a batch, of an output and of its sampling set to values
 * that cannot be. Each is refused with a text, and the next good step still answers as before.
 */
#include <math.h>

#include "check.h"
#include "tiny_model.h"

enum { VOCAB = 203, ROWS = 20 };

static int32_t token_ids[ROWS], cu_rows[3], start_pos[2], tables[2 * 4], history[3], bias_ids[2], suppressed[2];
static float bias_values[2];
static trit_output outputs[2];
static trit_batch batch;

/* Two sequences: 17 rows from position 0, 3 rows from position 14; an output at the end of each. */
static void good_batch(void)
{
    for (int32_t i = 0; i < ROWS; i++)
        token_ids[i] = i * 7;
    memcpy(cu_rows, (const int32_t[]){0, 17, 20}, sizeof cu_rows);
    memcpy(start_pos, (const int32_t[]){0, 14}, sizeof start_pos);
    memcpy(tables, (const int32_t[]){5, 6, -1, -1, 8, 3, -1, -1}, sizeof tables);
    memcpy(history, (const int32_t[]){0, 7, 202}, sizeof history);
    memcpy(bias_ids, (const int32_t[]){1, 202}, sizeof bias_ids);
    memcpy(bias_values, (const float[]){1.0f, -1.0f}, sizeof bias_values);
    memcpy(suppressed, (const int32_t[]){0, 9}, sizeof suppressed);
    const trit_sampling sampling = {.temperature = 1.0f,
                                    .top_p = 0.9f,
                                    .min_p = 0.1f,
                                    .top_k = 40,
                                    .repetition_penalty = 1.1f,
                                    .history = history,
                                    .n_history = 3,
                                    .n_prompt = 2,
                                    .bias_ids = bias_ids,
                                    .bias_values = bias_values,
                                    .n_bias = 2,
                                    .suppressed = suppressed,
                                    .n_suppressed = 2};
    outputs[0] = (trit_output){.row = 16, .target = -1, .n_top = 3, .sampling = sampling};
    outputs[1] = (trit_output){.row = 19, .target = -1, .n_top = 20, .sampling = sampling};
    batch = (trit_batch){.n_seqs = 2,
                         .n_rows = ROWS,
                         .n_outputs = 2,
                         .max_blocks = 4,
                         .token_ids = token_ids,
                         .cu_rows = cu_rows,
                         .start_pos = start_pos,
                         .block_tables = tables,
                         .outputs = outputs};
}

static trit_session *session;
static trit_choice first[2];

static void refuse(trit_status expected, const char *what, long long value)
{
    trit_choice choices[2];
    trit_error err = {.text = ""};
    int before = check_failed;
    check_answer(trit_session_step(session, &batch, choices, NULL, &err), expected, &err, what, __FILE__, __LINE__);
    if (check_failed != before)
        printf("    with %lld\n", value);
    good_batch();
}

#define REFUSE_INT_BUT(allowed, place)                                   \
    for (size_t i_ = 0; i_ < sizeof hostile / sizeof hostile[0]; i_++) { \
        if (hostile[i_] == (allowed))                                    \
            continue;                                                    \
        place = hostile[i_];                                             \
        refuse(TRIT_ERR_ARGUMENT, #place, hostile[i_]);                  \
    }
#define REFUSE_INT(place) REFUSE_INT_BUT(INT32_MIN + 1, place) /* which is not among them */
#define REFUSE_NULL(place) \
    place = NULL;          \
    refuse(TRIT_ERR_ARGUMENT, #place " = NULL", 0);
#define REFUSE_FLOAT(place)                                                    \
    for (size_t i_ = 0; i_ < sizeof bad_floats / sizeof bad_floats[0]; i_++) { \
        place = bad_floats[i_];                                                \
        refuse(TRIT_ERR_ARGUMENT, #place, (long long)i_);                      \
    }

static const int32_t hostile[] = {-1, -2, INT32_MIN, INT32_MAX, INT32_MAX - 15, 1 << 30};
static const float bad_floats[] = {NAN, INFINITY, -INFINITY, 1e38f, -1e38f};

static void check_counts_and_pointers(void)
{
    REFUSE_INT(batch.n_seqs)
    REFUSE_INT(batch.n_rows)
    REFUSE_INT(batch.n_outputs)
    batch.max_blocks = 1;
    refuse(TRIT_ERR_ARGUMENT, "max_blocks too small", 1);
    batch.max_blocks = -4;
    refuse(TRIT_ERR_ARGUMENT, "max_blocks negative", -4);
    batch.n_seqs = 0;
    refuse(TRIT_ERR_ARGUMENT, "rows without sequences", 0);
    batch.n_seqs = 1;
    refuse(TRIT_ERR_ARGUMENT, "rows after the last sequence", 1);
    REFUSE_NULL(batch.token_ids)
    REFUSE_NULL(batch.cu_rows)
    REFUSE_NULL(batch.start_pos)
    REFUSE_NULL(batch.block_tables)
    REFUSE_NULL(batch.outputs)
    batch.token_ids = (const int32_t *)((const char *)token_ids + 1);
    refuse(TRIT_ERR_ARGUMENT, "misaligned token_ids", 1);
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_step(session, &batch, NULL, NULL, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_step(session, NULL, first, NULL, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_session_step(NULL, &batch, first, NULL, err));
}

static void check_rows(void)
{
    REFUSE_INT(token_ids[0])
    REFUSE_INT(token_ids[19])
    token_ids[4] = VOCAB;
    refuse(TRIT_ERR_ARGUMENT, "token id == vocab", VOCAB);
    REFUSE_INT(cu_rows[0])
    REFUSE_INT(cu_rows[1])
    REFUSE_INT(cu_rows[2])
    cu_rows[1] = 0;
    refuse(TRIT_ERR_ARGUMENT, "a sequence without rows", 0);
    REFUSE_INT(start_pos[0])
    REFUSE_INT(start_pos[1])
    start_pos[1] = 254;
    refuse(TRIT_ERR_ARGUMENT, "rows past the largest position", 254);
    REFUSE_INT(tables[0])
    REFUSE_INT(tables[1])
    REFUSE_INT(tables[5])
    tables[4] = TINY_BLOCKS;
    refuse(TRIT_ERR_ARGUMENT, "block == n_blocks", TINY_BLOCKS);
    tables[1] = tables[0];
    refuse(TRIT_ERR_ARGUMENT, "one block twice in a sequence", 0);
    tables[5] = tables[1];
    refuse(TRIT_ERR_ARGUMENT, "one block written by two sequences", 0);
}

static void check_outputs(void)
{
    REFUSE_INT(outputs[0].row)
    outputs[1].row = 3;
    refuse(TRIT_ERR_ARGUMENT, "rows of outputs descend", 3);
    outputs[0].target = -2;
    refuse(TRIT_ERR_ARGUMENT, "target", -2);
    outputs[0].target = VOCAB;
    refuse(TRIT_ERR_ARGUMENT, "target", VOCAB);
    REFUSE_INT_BUT(-1, outputs[1].n_top) /* no log-probabilities */
    trit_sampling *p = &outputs[1].sampling;
    REFUSE_FLOAT(p->temperature)
    REFUSE_FLOAT(p->top_p)
    REFUSE_FLOAT(p->min_p)
    REFUSE_FLOAT(p->repetition_penalty)
    REFUSE_FLOAT(p->presence_penalty)
    REFUSE_FLOAT(p->frequency_penalty)
    p->repetition_penalty = 0.0f;
    refuse(TRIT_ERR_ARGUMENT, "repetition_penalty", 0);
    p->top_k = -1;
    refuse(TRIT_ERR_ARGUMENT, "top_k", -1);
    p->position = -1;
    refuse(TRIT_ERR_ARGUMENT, "position", -1);
    REFUSE_NULL(p->history)
    REFUSE_NULL(p->bias_ids)
    REFUSE_NULL(p->bias_values)
    REFUSE_NULL(p->suppressed)
    REFUSE_INT(history[1])
    REFUSE_INT(bias_ids[1])
    REFUSE_INT(suppressed[1])
    REFUSE_FLOAT(bias_values[1])
    p->n_history = -1;
    refuse(TRIT_ERR_ARGUMENT, "n_history", -1);
    p->n_prompt = 4;
    refuse(TRIT_ERR_ARGUMENT, "n_prompt > n_history", 4);
    p->n_prompt = -1;
    refuse(TRIT_ERR_ARGUMENT, "n_prompt", -1);
    p->n_bias = -1;
    refuse(TRIT_ERR_ARGUMENT, "n_bias", -1);
    p->n_bias = VOCAB + 1;
    refuse(TRIT_ERR_ARGUMENT, "n_bias > vocab", VOCAB + 1);
    p->n_suppressed = INT32_MAX;
    refuse(TRIT_ERR_ARGUMENT, "n_suppressed", INT32_MAX);
}

static void check_sample(void)
{
    float logits[VOCAB] = {0};
    trit_choice choice;
    const trit_sampling *p = &outputs[0].sampling;
    CHECK_OK(trit_sample(logits, VOCAB, p, -1, 20, &choice, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(NULL, VOCAB, p, -1, 0, &choice, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(logits, VOCAB, NULL, -1, 0, &choice, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(logits, VOCAB, p, -1, 0, NULL, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(logits, VOCAB, p, -2, 0, &choice, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(logits, VOCAB, p, VOCAB, 0, &choice, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(logits, VOCAB, p, -1, 21, &choice, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(logits, VOCAB, p, -1, -2, &choice, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT,
                  trit_sample(logits, 100, p, -1, 0, &choice, err)); /* ids of the history are past it */
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++)
        CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(logits, hostile[i], p, -1, 0, &choice, err));
    CHECK_REFUSED(TRIT_ERR_ARGUMENT, trit_sample(logits, 0, p, -1, 0, &choice, err));
}

int main(void)
{
    tiny_model tiny;
    tiny_stack stack;
    trit_choice again[2];
    CHECK(tiny_make(&tiny, &tiny_arch, 42, 1));
    CHECK_OK(tiny_open(&stack, &tiny, TRIT_ISA_AUTO, 2, err));
    session = stack.session;
    good_batch();
    for (int32_t i = 0; i < TINY_BLOCKS; i++) /* position 14 reads what no step wrote: give it something */
        CHECK_OK(trit_kv_poison(stack.kv, i, err));
    start_pos[1] = 0;
    CHECK_OK(trit_session_step(session, &batch, first, NULL, err));
    good_batch();
    check_counts_and_pointers();
    check_rows();
    check_outputs();
    check_sample();
    start_pos[1] = 0;
    CHECK_OK(trit_session_step(session, &batch, again, NULL, err));
    CHECK(memcmp(first, again, sizeof first) == 0);
    const trit_batch nothing = {.n_seqs = 0};
    CHECK_OK(trit_session_step(session, &nothing, NULL, NULL, err));
    tiny_close(&stack);
    tiny_drop(&tiny);
    return CHECK_SUMMARY;
}
