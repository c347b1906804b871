/*
 * step_driver.c - runs steps of a packed model through the public interface, so that a tool can count what a step executes.
 *
 *     step_driver TABLE MODEL ISA prefill|decode N STEPS
 *
 * TABLE, written by __main__.py from the model's header: hidden intermediate n_layers n_heads n_kv_heads head_dim vocab max_positions
 * activation sub_norms norm_eps, then a line per tensor: kind layer layout layout_version n k offset bytes scale. `prefill` computes N rows
 * of one sequence a step, `decode` one row of each of N sequences, all greedy, one thread, over the same tokens every time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "trit/trit.h"

enum { MAX_TENSORS = 1024, MAX_ROWS = 256 };

static trit_error error;

static void fail(const char *what)
{
    fprintf(stderr, "step_driver: %s%s%s\n", what, error.text[0] ? ": " : "", error.text);
    exit(1);
}

static size_t read_table(const char *path, trit_arch *a, trit_tensor *tensors)
{
    FILE *file = fopen(path, "re");
    if (file == NULL || fscanf(file, "%d %d %d %d %d %d %d %d %d %d %f", &a->hidden, &a->intermediate, &a->n_layers,
                               &a->n_heads, &a->n_kv_heads, &a->head_dim, &a->vocab, &a->max_positions, &a->activation,
                               &a->sub_norms, &a->norm_eps) != 11)
        fail("the table has no dimensions");
    size_t count = 0;
    long long n, k;
    unsigned long long offset, bytes;
    trit_tensor t;
    while (fscanf(file, "%d %d %d %d %lld %lld %llu %llu %f", &t.kind, &t.layer, &t.layout, &t.layout_version, &n, &k,
                  &offset, &bytes, &t.scale) == 9) {
        if (count == MAX_TENSORS)
            fail("more tensors than expected");
        t.n = n, t.k = k, t.offset = offset, t.bytes = bytes;
        tensors[count++] = t;
    }
    fclose(file);
    return count;
}

static trit_isa isa_of(const char *name)
{
    for (int isa = TRIT_ISA_REF; isa < 64; isa++)
        if (strcmp(trit_isa_name((trit_isa)isa), name) == 0 && trit_isa_supported((trit_isa)isa))
            return (trit_isa)isa;
    fprintf(stderr, "step_driver: %s cannot run here\n", name);
    exit(3);
}

static void run(trit_session *session, int decode, int n, int steps, int vocab, int blocks_each)
{
    static int32_t tokens[MAX_ROWS], cu_rows[MAX_ROWS + 1], starts[MAX_ROWS], tables[MAX_ROWS * 64];
    static trit_output outputs[MAX_ROWS];
    static trit_choice choices[MAX_ROWS];
    int n_seqs = decode ? n : 1;
    for (int i = 0; i < n_seqs * blocks_each; i++)
        tables[i] = i;
    for (int step = 0; step < steps; step++) {
        for (int row = 0; row < n; row++)
            tokens[row] = (row * 37 + step * 101) % vocab;
        for (int s = 0; s < n_seqs; s++) {
            cu_rows[s + 1] = decode ? s + 1 : n;
            starts[s] = decode ? step : step * n;
            outputs[s] = (trit_output){.row = cu_rows[s + 1] - 1, .target = -1};
            outputs[s].sampling = (trit_sampling){.position = starts[s] + 1, .top_p = 1, .repetition_penalty = 1};
        }
        trit_batch batch = {.n_seqs = n_seqs,
                            .n_rows = n,
                            .n_outputs = n_seqs,
                            .max_blocks = blocks_each,
                            .token_ids = tokens,
                            .cu_rows = cu_rows,
                            .start_pos = starts,
                            .block_tables = tables,
                            .outputs = outputs};
        if (trit_session_step(session, &batch, choices, NULL, &error) != TRIT_OK)
            fail("a step failed");
    }
}

int main(int argc, char **argv)
{
    static trit_tensor tensors[MAX_TENSORS];
    if (argc != 7)
        fail("usage: step_driver TABLE MODEL ISA prefill|decode N STEPS");
    int decode = strcmp(argv[4], "decode") == 0, n = atoi(argv[5]), steps = atoi(argv[6]);
    trit_arch arch = {0};
    size_t n_tensors = read_table(argv[1], &arch, tensors);
    int positions = decode ? steps : n * steps;
    if (n < 1 || n > MAX_ROWS || steps < 1 || positions > arch.max_positions || positions > 64 * TRIT_BLOCK_TOKENS)
        fail("too many rows or steps");
    int fd = open(argv[2], O_RDONLY | O_CLOEXEC), n_seqs = decode ? n : 1;
    int blocks_each = (positions + TRIT_BLOCK_TOKENS - 1) / TRIT_BLOCK_TOKENS, kv_fd = memfd_create("kv", MFD_CLOEXEC);
    trit_model *model = NULL;
    trit_kv *kv = NULL;
    trit_session *session = NULL;
    uint64_t kv_bytes = 0;
    const trit_session_options options = {.n_threads = 1, .max_rows = n, .max_seqs = n_seqs, .max_outputs = n_seqs};
    if (fd < 0 || trit_model_open(&model, fd, &arch, tensors, n_tensors, isa_of(argv[3]), 1, &error) != TRIT_OK)
        fail("the model cannot be opened");
    if (trit_kv_region_bytes(model, n_seqs * blocks_each, TRIT_KV_INT16, &kv_bytes, &error) != TRIT_OK ||
        ftruncate(kv_fd, (off_t)kv_bytes) != 0 ||
        trit_kv_attach(&kv, model, kv_fd, n_seqs * blocks_each, TRIT_KV_INT16, 0, &error) != TRIT_OK ||
        trit_session_create(&session, model, kv, &options, &error) != TRIT_OK)
        fail("no session");
    run(session, decode, n, steps, arch.vocab, blocks_each);
    trit_session_destroy(&session);
    trit_kv_detach(&kv);
    trit_model_close(&model);
    return 0;
}
