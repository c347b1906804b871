/*
 * fuzz_model.c - arch, tensor table and file contents of a good tiny model, changed in up to eight places. The library must refuse, or open
 * a model that it can run: a step over whatever was accepted.
 */
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "fuzz.h"
#include "tiny_model.h"

static void change(fuzz_input *in, trit_arch *arch, trit_tensor *tensors, size_t n_tensors, int fd, uint64_t file_bytes)
{
    uint8_t what = fuzz_byte(in);
    if (what < 40) {
        ((int32_t *)arch)[what % 10] = (int32_t)fuzz_number(in);
    } else if (what < 48) {
        arch->norm_eps = fuzz_float(in);
    } else if (what < 96) { /* a byte of the file */
        uint8_t byte = fuzz_byte(in);
        off_t at = (off_t)((uint64_t)fuzz_number(in) % file_bytes);
        if (pwrite(fd, &byte, 1, at) != 1)
            abort();
    } else {
        trit_tensor *t = &tensors[fuzz_byte(in) % n_tensors];
        int64_t value = fuzz_number(in);
        switch (what % 10) {
        case 0: t->kind = (int32_t)value; break;
        case 1: t->layer = (int32_t)value; break;
        case 2: t->layout = (int32_t)value; break;
        case 3: t->layout_version = (int32_t)value; break;
        case 4: t->n = value; break;
        case 5: t->k = value; break;
        case 6: t->offset = (uint64_t)value; break;
        case 7: t->offset = (uint64_t)value / 64 * 64; break;
        case 8: t->bytes = (uint64_t)value; break;
        default: t->scale = fuzz_float(in); break;
        }
    }
}

static void run(const tiny_model *tiny)
{
    static const int32_t token_ids[2] = {0, 0}, cu_rows[2] = {0, 2}, start = 0, block = 1;
    const trit_output output = {
        .row = 1, .target = -1, .sampling = {.temperature = 1.0f, .top_p = 0.9f, .repetition_penalty = 1.0f}};
    trit_batch batch = {.n_seqs = 1,
                        .n_rows = 2,
                        .n_outputs = 1,
                        .max_blocks = 1,
                        .token_ids = token_ids,
                        .cu_rows = cu_rows,
                        .start_pos = &start,
                        .block_tables = &block,
                        .outputs = &output};
    tiny_stack stack;
    trit_choice choice;
    trit_error err;
    if (tiny_open(&stack, tiny, TRIT_ISA_AUTO, 1, &err) != TRIT_OK)
        return;
    if (trit_session_step(stack.session, &batch, &choice, NULL, &err) == TRIT_OK && choice.token >= tiny->arch.vocab)
        abort();
    tiny_close(&stack);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static tiny_model good;
    static uint8_t *contents;
    fuzz_input in = {bytes, n};
    if (contents == NULL) {
        if (!tiny_make(&good, &tiny_arch, 42, 1) || (contents = malloc((size_t)good.file_bytes)) == NULL ||
            pread(good.fd, contents, (size_t)good.file_bytes, 0) <= 0)
            abort();
    }
    tiny_model bad = good;
    int changes = 1 + fuzz_byte(&in) % 8;
    if (fuzz_byte(&in) % 16 == 0)
        bad.n_tensors = (size_t)fuzz_byte(&in) % (good.n_tensors + 1);
    for (int i = 0; i < changes; i++)
        change(&in, &bad.arch, bad.tensors, good.n_tensors, bad.fd, good.file_bytes);
    run(&bad);
    if (pwrite(good.fd, contents, (size_t)good.file_bytes, 0) < 0) /* as it was */
        abort();
    return 0;
}
