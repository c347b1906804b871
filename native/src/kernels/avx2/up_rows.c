/*
 * Ternary rows: dot products along K, so that an output that no gate asks for costs nothing.
 *
 * Up to FEW rows of x use the fields of w in place, as gemv does. More share the codes of a block of 64 outputs x CHUNK inputs, decoded once
 * into bytes (64 KiB, in the second-level cache): per output and TOKENS rows of x, whose chunk stays in the first-level cache, the products of
 * those that need it, up to eight at a time.
 */
#include "tile.h"

#include "ops.h"

trit_up_rows_fn trit_up_rows_i8t2_8x1__avx2;

enum {
    UNIT = 256,
    UNIT_BYTES = 64,
    FEW = 4,
    IN_PLACE_UNITS = 8,
    CHUNK = 1024,
    TOKENS = 16,
    BLOCKS = 8,
    GROUP = 8,
    LISTED = 1024,
    AHEAD = 4
};

static inline int is_open(const float *gate, size_t at)
{
    return gate == NULL || !(gate[at] <= 0.0f);
}

/* Like add_bytes, with the inputs in memory. */
FLATTEN void add_bytes_at(__m256i *acc, __m256i codes, const int8_t *inputs)
{
    __m256i pairs;
    __asm__ volatile("vpmaddubsw %[inputs], %[codes], %[pairs]\n\tvpaddw %[pairs], %[acc], %[acc]"
                     : [acc] "+x"(*acc), [pairs] "=&x"(pairs)
                     : [codes] "x"(codes), [inputs] "m"(*(const __m256i *)inputs));
}

static inline __m256i widen(__m256i pairs)
{
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* ---- few rows --------------------------------------------------------------------------------------------------- */

/*
 * Sum of code * x of one output. Odd fields come out as four times their code: 16 products fit an int16 (panel.h). Meanwhile the row at
 * `next` comes into the first-level cache.
 */
APART int32_t dot_in_place(const int8_t *x, const uint8_t *w, size_t row_bytes, const uint8_t *next)
{
    const __m256i low = _mm256_set1_epi8(0x03), high = _mm256_set1_epi8(0x0c), zero = _mm256_setzero_si256();
    __m256i even = zero, odd = zero;
    for (size_t at = 0; at < row_bytes;) {
        size_t end = row_bytes - at < IN_PLACE_UNITS * UNIT_BYTES ? row_bytes : at + IN_PLACE_UNITS * UNIT_BYTES;
        __m256i f0 = zero, f1 = zero, f2 = zero, f3 = zero;
        for (; at < end; at += UNIT_BYTES) {
            _mm_prefetch((const char *)next + at, _MM_HINT_T0);
            for (size_t half = 0; half < UNIT_BYTES; half += 32) {
                const int8_t *inputs = x + 4 * at + half;
                __m256i v = load(w + at + half), u = _mm256_srli_epi16(v, 4);
                add_bytes_at(&f0, _mm256_and_si256(v, low), inputs);
                add_bytes_at(&f1, _mm256_and_si256(v, high), inputs + 64);
                add_bytes_at(&f2, _mm256_and_si256(u, low), inputs + 128);
                add_bytes_at(&f3, _mm256_and_si256(u, high), inputs + 192);
            }
        }
        even = _mm256_add_epi32(even, _mm256_add_epi32(widen(f0), widen(f2)));
        odd = _mm256_add_epi32(odd, _mm256_add_epi32(widen(f1), widen(f3)));
    }
    __m256i sum = _mm256_add_epi32(even, _mm256_srai_epi32(odd, 2));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four = _mm_hadd_epi32(four, four);
    return _mm_cvtsi128_si32(_mm_hadd_epi32(four, four));
}

/* The outputs of [n0, n1) that some row needs; the others become 0. */
static size_t list_needed(size_t m, size_t n0, size_t n1, const float *gate, float *y, size_t y_stride,
                          uint32_t *needed)
{
    size_t count = 0;
    for (size_t n = n0; n < n1; n++) {
        int any = 0;
        for (size_t row = 0; row < m; row++) {
            any |= is_open(gate, row * y_stride + n);
            y[row * y_stride + n] = 0.0f;
        }
        needed[count] = (uint32_t)n; /* written always, kept if needed: no branch */
        count += (size_t)any;
    }
    return count;
}

static void few_rows(const int8_t *x, size_t x_stride, const int32_t *x_sum, size_t m, const uint8_t *w,
                     size_t row_bytes, size_t n0, size_t n1, const float *row_scale, const float *gate, float *y,
                     size_t y_stride)
{
    uint32_t needed[LISTED];
    for (; n0 < n1; n0 += LISTED) {
        size_t count = list_needed(m, n0, n1 - n0 < LISTED ? n1 : n0 + LISTED, gate, y, y_stride, needed);
        for (size_t i = 0; i < count; i++) {
            const uint8_t *from = w + needed[i] * row_bytes;
            const uint8_t *next = w + needed[i + AHEAD < count ? i + AHEAD : i] * row_bytes;
            for (size_t row = 0; row < m; row++) {
                size_t at = row * y_stride + needed[i];
                if (!is_open(gate, at))
                    continue;
                int32_t dot = dot_in_place(x + row * x_stride, from, row_bytes, next);
                y[at] = (float)(dot - x_sum[row]) * row_scale[row];
                next = from; /* there already */
            }
        }
    }
}

/* ---- many rows -------------------------------------------------------------------------------------------------- */

/* Of 64 outputs and up to BLOCKS x TOKENS rows of x: per block and output the rows that need it, and their sums in the same order. */
typedef struct needs {
    uint8_t count[BLOCKS][TRIT_PANEL];
    uint8_t tokens[BLOCKS][TRIT_PANEL][TOKENS];
    _Alignas(64) int32_t sums[BLOCKS][TRIT_PANEL][TOKENS];
    uint8_t any[TRIT_PANEL];
} needs;

static void list_needs(needs *list, size_t m, const float *gate, size_t y_stride, size_t n_outputs)
{
    memset(list, 0, sizeof *list);
    for (size_t row = 0; row < m; row++) {
        uint8_t *count = list->count[row / TOKENS];
        for (size_t n = 0; n < n_outputs; n++) {
            /* written always, kept if open: no branch */
            list->tokens[row / TOKENS][n][count[n] % TOKENS] = (uint8_t)(row % TOKENS);
            int open = is_open(gate, row * y_stride + n);
            count[n] = (uint8_t)(count[n] + open);
            list->any[n] = (uint8_t)(list->any[n] | open);
        }
    }
}

APART void decode_row(const uint8_t *w, size_t bytes, uint8_t *codes)
{
    const __m256i mask = _mm256_set1_epi8(3);
    for (size_t at = 0; at < bytes; at += UNIT_BYTES)
        for (size_t half = 0; half < UNIT_BYTES; half += 32) {
            __m256i v = load(w + at + half);
            uint8_t *to = codes + 4 * at + half;
            store(to, _mm256_and_si256(v, mask));
            store(to + 64, _mm256_and_si256(_mm256_srli_epi16(v, 2), mask));
            store(to + 128, _mm256_and_si256(_mm256_srli_epi16(v, 4), mask));
            store(to + 192, _mm256_and_si256(_mm256_srli_epi16(v, 6), mask));
        }
}

#define EACH_TOKEN(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

/* sums[i] += the products of one output's codes with up to eight rows of x; CHUNK inputs are 32 products of an int16's 64. */
FLATTEN void add_group(const size_t n, const int8_t *x, size_t x_stride, const uint8_t *tokens, const uint8_t *codes,
                       size_t n_inputs, int32_t *sums)
{
    const __m256i zero = _mm256_setzero_si256();
#define BEGIN(i)            \
    __m256i s##i = zero;    \
    const int8_t *x##i = x; \
    if (n > i)              \
        x##i = x + tokens[i] * x_stride;
    EACH_TOKEN(BEGIN)
#undef BEGIN
    for (size_t k = 0; k < n_inputs; k += 32) {
        __m256i v = load(codes + k);
#define ADD(i) \
    if (n > i) \
        add_bytes_at(&s##i, v, x##i + k);
        EACH_TOKEN(ADD)
#undef ADD
    }
    __m256i h01 = _mm256_hadd_epi32(widen(s0), widen(s1)), h23 = _mm256_hadd_epi32(widen(s2), widen(s3));
    __m256i h45 = _mm256_hadd_epi32(widen(s4), widen(s5)), h67 = _mm256_hadd_epi32(widen(s6), widen(s7));
    __m256i first = _mm256_hadd_epi32(h01, h23), second = _mm256_hadd_epi32(h45, h67);
    __m256i all = _mm256_add_epi32(_mm256_permute2x128_si256(first, second, 0x20),
                                   _mm256_permute2x128_si256(first, second, 0x31));
    store(sums, _mm256_add_epi32(load_unaligned(sums), all));
}

APART void add_tokens(size_t n, const int8_t *x, size_t x_stride, const uint8_t *tokens, const uint8_t *codes,
                      size_t n_inputs, int32_t *sums)
{
#define CASE(n_) \
    case n_: add_group(n_, x, x_stride, tokens, codes, n_inputs, sums); break;
    switch (n) {
        CASE(1)
        CASE(2)
        CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) default : add_group(GROUP, x, x_stride, tokens, codes, n_inputs, sums);
        break;
    }
#undef CASE
}

static void sum_outputs(needs *list, const int8_t *x, size_t x_stride, size_t m, const uint8_t *w, size_t row_bytes,
                        size_t n_outputs)
{
    _Alignas(64) uint8_t codes[TRIT_PANEL][CHUNK];
    for (size_t k0 = 0; k0 < 4 * row_bytes; k0 += CHUNK) {
        size_t n_inputs = 4 * row_bytes - k0 < CHUNK ? 4 * row_bytes - k0 : CHUNK;
        for (size_t n = 0; n < n_outputs; n++)
            if (list->any[n])
                decode_row(w + n * row_bytes + k0 / 4, n_inputs / 4, codes[n]);
        for (size_t block = 0; block * TOKENS < m; block++)
            for (size_t n = 0; n < n_outputs; n++)
                for (size_t i = 0; i < list->count[block][n]; i += GROUP)
                    add_tokens(list->count[block][n] - i, x + block * TOKENS * x_stride + k0, x_stride,
                               list->tokens[block][n] + i, codes[n], n_inputs, list->sums[block][n] + i);
    }
}

static void store_outputs(const needs *list, const int32_t *x_sum, size_t m, size_t n_outputs, const float *row_scale,
                          float *y, size_t y_stride)
{
    for (size_t row = 0; row < m; row++)
        memset(y + row * y_stride, 0, n_outputs * sizeof *y);
    for (size_t block = 0; block * TOKENS < m; block++)
        for (size_t n = 0; n < n_outputs; n++)
            for (size_t i = 0; i < list->count[block][n]; i++) {
                size_t row = block * TOKENS + list->tokens[block][n][i];
                y[row * y_stride + n] = (float)(list->sums[block][n][i] - x_sum[row]) * row_scale[row];
            }
}

void trit_up_rows_i8t2_8x1__avx2(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                                 const uint8_t *restrict w, size_t row_bytes, size_t n0, size_t n1,
                                 const float *restrict row_scale, const float *restrict gate, float *restrict y,
                                 size_t y_stride)
{
    if (m <= FEW) {
        few_rows(x, x_stride, x_sum, m, w, row_bytes, n0, n1, row_scale, gate, y, y_stride);
        return;
    }
    needs list;
    for (size_t n = n0; n < n1; n += TRIT_PANEL)
        for (size_t row = 0; row < m; row += BLOCKS * TOKENS) {
            size_t n_outputs = n1 - n < TRIT_PANEL ? n1 - n : TRIT_PANEL;
            size_t n_rows = m - row < BLOCKS * TOKENS ? m - row : BLOCKS * TOKENS;
            list_needs(&list, n_rows, gate == NULL ? NULL : gate + row * y_stride + n, y_stride, n_outputs);
            sum_outputs(&list, x + row * x_stride, x_stride, n_rows, w + n * row_bytes, row_bytes, n_outputs);
            store_outputs(&list, x_sum + row, n_rows, n_outputs, row_scale + row, y + row * y_stride + n, y_stride);
        }
}
