/*
 * Ternary columns of several rows, only the pairs of inputs that are listed for each.
 *
 * Two panels at a time. A block of BLOCK_PAIRS pairs of inputs is decoded into bytes of codes (16 KiB, half of the first-level cache); then
 * each row adds the pairs on its list: eight accumulators in registers, kept between blocks as int16 until MAX_PAIRS products are in them.
 */
#include "columns.h"

trit_down_pairs_fn trit_down_pairs_i8t2_1x128__avx2;

enum { BLOCK_PAIRS = 64, MAX_ROWS = 128 };

/* The state of up to MAX_ROWS rows over the blocks. */
typedef struct progress {
    _Alignas(64) int16_t sums[MAX_ROWS][PAIR_VECTORS * 16];
    _Alignas(64) int32_t acc[MAX_ROWS][TWO_PANELS];
    const uint32_t *at[MAX_ROWS], *end[MAX_ROWS]; /* what is left of the list */
    size_t n_sums[MAX_ROWS];
} progress;

/* codes [pair][4 fields][low, high][32] */
FLATTEN void decode_pairs(const uint8_t *w, size_t run_bytes, size_t n_pairs, const size_t bytes,
                          uint8_t codes[BLOCK_PAIRS][PAIR_VECTORS][32])
{
    const __m256i mask = _mm256_set1_epi8(3);
    for (size_t p = 0; p < n_pairs; p++) {
        const uint8_t *run = w + 2 * p * run_bytes;
        _mm_prefetch((const char *)run + 2 * BLOCK_PAIRS * run_bytes, _MM_HINT_T1);
        _mm_prefetch((const char *)run + (2 * BLOCK_PAIRS + 1) * run_bytes, _MM_HINT_T1);
        __m256i a = load_run(run, bytes), b = load_run(run + run_bytes, bytes);
        const __m256i two[2] = {_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
        for (size_t i = 0; i < 2; i++) {
            store(codes[p][i], _mm256_and_si256(two[i], mask));
            store(codes[p][2 + i], _mm256_and_si256(_mm256_srli_epi16(two[i], 2), mask));
            store(codes[p][4 + i], _mm256_and_si256(_mm256_srli_epi16(two[i], 4), mask));
            store(codes[p][6 + i], _mm256_and_si256(_mm256_srli_epi16(two[i], 6), mask));
        }
    }
}

APART void decode_two_panels(const uint8_t *w, size_t run_bytes, size_t n_pairs,
                             uint8_t codes[BLOCK_PAIRS][PAIR_VECTORS][32])
{
    decode_pairs(w, run_bytes, n_pairs, 32, codes);
}

APART void decode_one_panel(const uint8_t *w, size_t run_bytes, size_t n_pairs,
                            uint8_t codes[BLOCK_PAIRS][PAIR_VECTORS][32])
{
    decode_pairs(w, run_bytes, n_pairs, 16, codes);
}

FLATTEN void add_bytes_of(__m256i *acc, const uint8_t *codes, __m256i inputs)
{
    add_bytes(acc, load(codes), inputs);
}

/* sums += the listed pairs; codes of pair number first_pair first */
APART void add_list(const uint32_t *at, const uint32_t *end, size_t first_pair, uint8_t codes[][PAIR_VECTORS][32],
                    int16_t *sums)
{
#define EACH_VECTOR(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define BEGIN(v) __m256i s##v = load(sums + 16 * (v));
    EACH_VECTOR(BEGIN)
#undef BEGIN
    for (; at < end; at++) {
        const uint8_t *from = codes[(*at >> 16) - first_pair][0];
        __m256i inputs = _mm256_set1_epi16((int16_t)*at);
#define ADD(v) add_bytes_of(&s##v, from + 32 * (v), inputs);
        EACH_VECTOR(ADD)
#undef ADD
    }
#define END(v) store(sums + 16 * (v), s##v);
    EACH_VECTOR(END)
#undef END
}

static void add_block(progress *p, size_t m, size_t first_pair, size_t n_pairs, uint8_t codes[][PAIR_VECTORS][32])
{
    uint32_t limit = (uint32_t)(first_pair + n_pairs);
    for (size_t row = 0; row < m; row++) {
        const uint32_t *at = p->at[row], *end = at;
        while (end < p->end[row] && *end >> 16 < limit)
            end++;
        if (p->n_sums[row] + (size_t)(end - at) > MAX_PAIRS) {
            widen_sums(p->sums[row], 2, p->acc[row]);
            memset(p->sums[row], 0, sizeof p->sums[row]);
            p->n_sums[row] = 0;
        }
        add_list(at, end, first_pair, codes, p->sums[row]);
        p->n_sums[row] += (size_t)(end - at);
        p->at[row] = end;
    }
}

static void store_row(const int32_t *acc, size_t n_outputs, int32_t x_sum, float row_scale, float *y)
{
    for (size_t n = 0; n < n_outputs; n++)
        y[n] = (float)(acc[n] - x_sum) * row_scale;
}

void trit_down_pairs_i8t2_1x128__avx2(const uint32_t *restrict pairs, size_t pairs_stride,
                                      const int32_t *restrict n_pairs, const int32_t *restrict x_sum, size_t m,
                                      const uint8_t *restrict w, size_t n_inputs, size_t panel0, size_t panel1,
                                      size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                      size_t y_stride)
{
    _Alignas(64) uint8_t codes[BLOCK_PAIRS][PAIR_VECTORS][32];
    progress p;
    size_t run_bytes = (n_outputs + TRIT_PANEL - 1) / TRIT_PANEL * RUN_PANEL_BYTES, all_pairs = (n_inputs + 1) / 2;
    for (size_t panel = panel0; panel < panel1; panel += 2)
        for (size_t row0 = 0; row0 < m; row0 += MAX_ROWS) {
            size_t n_rows = m - row0 < MAX_ROWS ? m - row0 : MAX_ROWS;
            for (size_t row = 0; row < n_rows; row++) {
                memset(p.sums[row], 0, sizeof p.sums[row]);
                memset(p.acc[row], 0, sizeof p.acc[row]);
                p.at[row] = pairs + (row0 + row) * pairs_stride;
                p.end[row] = p.at[row] + n_pairs[row0 + row];
                p.n_sums[row] = 0;
            }
            for (size_t first = 0; first < all_pairs; first += BLOCK_PAIRS) {
                size_t n = all_pairs - first < BLOCK_PAIRS ? all_pairs - first : BLOCK_PAIRS;
                const uint8_t *from = w + 2 * first * run_bytes + panel * RUN_PANEL_BYTES;
                if (panel + 1 < panel1)
                    decode_two_panels(from, run_bytes, n, codes);
                else
                    decode_one_panel(from, run_bytes, n, codes);
                add_block(&p, n_rows, first, n, codes);
            }
            size_t first_output = panel * TRIT_PANEL, last = panel + 2 < panel1 ? panel + 2 : panel1;
            size_t end = last * TRIT_PANEL < n_outputs ? last * TRIT_PANEL : n_outputs;
            for (size_t row = 0; row < n_rows; row++) {
                widen_sums(p.sums[row], 2, p.acc[row]);
                store_row(p.acc[row], end - first_output, x_sum[row0 + row], row_scale[row0 + row],
                          y + (row0 + row) * y_stride + first_output);
            }
        }
}
