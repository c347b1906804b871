/* check_codes_valid.c - the damage check must find a single 3 wherever it lies, and nothing else. */
#include <stdio.h>

#include "kerncheck.h"

static uint8_t *valid_bytes(size_t bytes)
{
    uint8_t *w = kc_buffer(bytes);
    for (size_t i = 0; i < bytes; i++) {
        unsigned byte = 0;
        for (unsigned field = 0; field < 4; field++)
            byte |= (unsigned)kc_between(0, 2) << (2 * field);
        w[i] = (uint8_t)byte;
    }
    return w;
}

typedef struct codes_bench {
    trit_codes_valid_fn *fn;
    const uint8_t *w;
    size_t bytes;
} codes_bench;

static void bench_part(void *context, int part, int n_parts)
{
    const codes_bench *b = context;
    size_t share = b->bytes / (size_t)n_parts;
    if (!b->fn(b->w + share * (size_t)part, share))
        printf("  unexpected: damage found\n");
}

void check_codes_valid(const kc_kernel *kernel, int bench)
{
    trit_codes_valid_fn *fn = (trit_codes_valid_fn *)kernel->fn;
    if (bench) {
        codes_bench b = {fn, valid_bytes((size_t)256 << 20), (size_t)256 << 20};
        for (int threads = 1; threads <= 2; threads++)
            kc_bench(kernel, "256 MiB", &(kc_load){bench_part, &b, threads, 1, (double)b.bytes, 1, 0});
        kc_release();
        return;
    }
    kc_expect(kernel, fn(NULL, 0) == 1, "no bytes are valid");
    for (size_t bytes = 64; bytes <= 64 * 40; bytes += 64) {
        uint8_t *w = valid_bytes(bytes);
        kc_expect(kernel, fn(w, bytes) == 1, "%zu valid bytes", bytes);
        for (int trial = 0; trial < 20; trial++) {
            size_t at = trial == 0 ? 0 : trial == 1 ? bytes - 1 : (size_t)kc_between(0, (int64_t)bytes - 1);
            uint8_t before = w[at];
            w[at] = (uint8_t)(before | 3u << (2 * kc_between(0, 3)));
            kc_expect(kernel, fn(w, bytes) == 0, "%zu bytes with 0x%02x at %zu", bytes, w[at], at);
            w[at] = before;
        }
        kc_expect(kernel, kc_release(), "%zu bytes: a canary was overwritten", bytes);
    }
}
