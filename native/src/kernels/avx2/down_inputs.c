/*
 * Ternary columns of one row: the runs of the listed inputs, two at a time, added to the sums of all outputs.
 *
 * CHUNK inputs (16 products of an int16, as odd fields are four times their code) are summed in registers, then in the first-level cache as
 * int16 until MAX_PAIRS are reached, then as int32. Meanwhile the runs of the next chunk are prefetched.
 */
#include "columns.h"

trit_down_inputs_fn trit_down_inputs_i8t2_2x128__avx2;

enum { CHUNK = 16, SEGMENT = 1024, MAX_CHUNKS = 2 * MAX_PAIRS / CHUNK };

/* A chunk: pairs of runs, the pairs of inputs, and whose runs come next. */
typedef struct chunk {
    const uint8_t *runs[CHUNK], *next[CHUNK];
    int32_t inputs[CHUNK / 2]; /* two int8, twice */
    size_t n_pairs;
} chunk;

static void list_chunk(chunk *c, const int8_t *x, const int32_t *inputs, size_t n, size_t n_ahead, const uint8_t *w,
                       size_t run_bytes)
{
    for (size_t i = 0; i < n; i++)
        c->runs[i] = w + (size_t)inputs[i] * run_bytes;
    if (n % 2 == 1)
        c->runs[n] = c->runs[n - 1];
    c->n_pairs = (n + 1) / 2;
    for (size_t i = 0; i < c->n_pairs; i++) {
        uint32_t first = (uint8_t)x[inputs[2 * i]], second = 2 * i + 1 < n ? (uint8_t)x[inputs[2 * i + 1]] : 0u;
        c->inputs[i] = (int32_t)((first | second << 8) * 0x10001u);
    }
    for (size_t i = 0; i < 2 * c->n_pairs; i++)
        c->next[i] = i < n_ahead ? w + (size_t)inputs[n + i] * run_bytes : c->runs[i];
}

/* bytes (32 or 16) at `at` of every run of the chunk; sums as in widen_sums, += */
FLATTEN void add_piece(const chunk *c, size_t at, const size_t bytes, int16_t *sums)
{
    const __m256i low = _mm256_set1_epi8(0x03), high = _mm256_set1_epi8(0x0c), zero = _mm256_setzero_si256();
    __m256i l0 = zero, l1 = zero, l2 = zero, l3 = zero, h0 = zero, h1 = zero, h2 = zero, h3 = zero;
    for (size_t i = 0; i < c->n_pairs; i++) {
        _mm_prefetch((const char *)c->next[2 * i + at / 32 % 2] + at / 64 * 64, _MM_HINT_T1);
        __m256i a = load_run(c->runs[2 * i] + at, bytes), b = load_run(c->runs[2 * i + 1] + at, bytes);
        __m256i inputs = _mm256_set1_epi32(c->inputs[i]);
        __m256i v = _mm256_unpacklo_epi8(a, b), u = _mm256_srli_epi16(v, 4);
        add_bytes(&l0, _mm256_and_si256(v, low), inputs);
        add_bytes(&l1, _mm256_and_si256(v, high), inputs);
        add_bytes(&l2, _mm256_and_si256(u, low), inputs);
        add_bytes(&l3, _mm256_and_si256(u, high), inputs);
        v = _mm256_unpackhi_epi8(a, b);
        u = _mm256_srli_epi16(v, 4);
        add_bytes(&h0, _mm256_and_si256(v, low), inputs);
        add_bytes(&h1, _mm256_and_si256(v, high), inputs);
        add_bytes(&h2, _mm256_and_si256(u, low), inputs);
        add_bytes(&h3, _mm256_and_si256(u, high), inputs);
    }
#define KEEP(v, sum) store(sums + 16 * (v), _mm256_add_epi16(load(sums + 16 * (v)), sum))
    KEEP(0, l0);
    KEEP(1, h0);
    KEEP(2, _mm256_srai_epi16(l1, 2));
    KEEP(3, _mm256_srai_epi16(h1, 2));
    KEEP(4, l2);
    KEEP(5, h2);
    KEEP(6, _mm256_srai_epi16(l3, 2));
    KEEP(7, _mm256_srai_epi16(h3, 2));
#undef KEEP
}

APART void add_chunk(const chunk *c, size_t at0, size_t at1, int16_t *sums)
{
    size_t at = at0;
    for (; at + 32 <= at1; at += 32)
        add_piece(c, at, 32, sums + (at - at0) * 4);
    if (at < at1)
        add_piece(c, at, 16, sums + (at - at0) * 4);
}

/* Outputs of the runs' bytes [at0, at1). */
static void add_segment(const int8_t *x, const int32_t *inputs, size_t n_inputs, size_t n_ahead, const uint8_t *w,
                        size_t run_bytes, size_t at0, size_t at1, int32_t *acc)
{
    _Alignas(64) int16_t sums[4 * SEGMENT];
    chunk c;
    for (size_t i = 0; i < n_inputs && i < CHUNK; i++)
        for (size_t at = at0; at < at1; at += 64)
            _mm_prefetch((const char *)w + (size_t)inputs[i] * run_bytes + at, _MM_HINT_T0);
    for (size_t i = 0; i < n_inputs;) {
        memset(sums, 0, (at1 - at0 + 31) / 32 * 32 * 4 * sizeof *sums);
        for (size_t n, chunks = 0; chunks < MAX_CHUNKS && i < n_inputs; chunks++, i += n) {
            n = n_inputs - i < CHUNK ? n_inputs - i : CHUNK;
            list_chunk(&c, x, inputs + i, n, n_inputs - i - n + n_ahead, w, run_bytes);
            add_chunk(&c, at0, at1, sums);
        }
        for (size_t at = at0; at < at1; at += 32)
            widen_sums(sums + (at - at0) * 4, at1 - at >= 32 ? 2 : 1, acc + at * 4);
    }
}

void trit_down_inputs_i8t2_2x128__avx2(const int8_t *restrict x, const int32_t *restrict inputs, size_t n_inputs,
                                       size_t n_ahead, const uint8_t *restrict w, size_t run_bytes,
                                       int32_t *restrict acc)
{
    for (size_t at = 0; at < run_bytes; at += SEGMENT)
        add_segment(x, inputs, n_inputs, n_ahead, w, run_bytes, at, run_bytes - at < SEGMENT ? run_bytes : at + SEGMENT,
                    acc);
}
