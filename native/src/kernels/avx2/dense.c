/*
 * Ternary linear of one row over T5_P64G4, and the expansion of a panel for gemm.
 *
 * A digit is how many of two bounds the byte exceeds; the next digit's byte is three times this one. Six operations a digit, two of
 * vpmaddubsw and its sum: 7.6 for 32 weights where T2_P64G4 takes 3.25. So this is bound by arithmetic, not by memory: it is for when
 * memory is short (docs/decisions/0009-dense-ternary-weights.md has the numbers).
 */
#include "kernels/dense.h"
#include "panel.h"

trit_ternary_fn trit_gemv_i8t5_1x64__avx2;
trit_expand_fn trit_expand_t5_64__avx2;
trit_codes_valid_fn trit_codes_valid_t5_64__avx2;

enum { FLUSH_GROUPS = EVEN_FIELD_GROUPS / TRIT_DENSE_GROUPS * TRIT_DENSE_GROUPS };

/* Bytes as signed numbers, 128 less: comparisons are signed. Tripling keeps that (3 * 128 is 128 modulo 256). */
static inline __m256i load_biased(const uint8_t *w)
{
    return _mm256_xor_si256(load(w), _mm256_set1_epi8((char)0x80));
}

/* The first digit: 0, 1 or 2. 3 s >= 256 from 86 on, 3 s >= 512 from 171. */
static inline __m256i first_digit(__m256i biased)
{
    __m256i one = _mm256_cmpgt_epi8(biased, _mm256_set1_epi8(85 - 128));
    __m256i two = _mm256_cmpgt_epi8(biased, _mm256_set1_epi8(170 - 128));
    return _mm256_sub_epi8(_mm256_sub_epi8(_mm256_setzero_si256(), one), two);
}

static inline __m256i triple(__m256i v)
{
    return _mm256_add_epi8(v, _mm256_add_epi8(v, v));
}

/* The four fields of a vector's half times one group; *biased is left at the byte behind the fifth digit. */
FLATTEN void add_fields(__m256i biased, __m256i inputs, half_sums *s)
{
    add_bytes(&s->f3, first_digit(biased), inputs);
    biased = triple(biased);
    add_bytes(&s->f2, first_digit(biased), inputs);
    biased = triple(biased);
    add_bytes(&s->f1, first_digit(biased), inputs);
    biased = triple(biased);
    add_bytes(&s->f0, first_digit(biased), inputs);
}

static inline void flush(int32_t *sums, size_t half, const half_sums *s, int start)
{
    const __m256i wide[4] = {widen(s->f0), widen(s->f1), widen(s->f2), widen(s->f3)};
    for (size_t field = 0; field < 4; field++) {
        int32_t *at = sums + 16 * field + 8 * half;
        store(at, start ? wide[field] : _mm256_add_epi32(load(at), wide[field]));
    }
}

/* Up to FLUSH_GROUPS groups of one half. Groups beyond whole blocks are the panel's last. */
APART void add_stretch(const int8_t *x, const uint8_t *w, size_t n_groups, size_t half, int start, int32_t *sums)
{
    const __m256i zero = _mm256_setzero_si256();
    half_sums s = {zero, zero, zero, zero};
    w += 32 * half;
    size_t g = 0;
    for (; g + TRIT_DENSE_GROUPS <= n_groups; g += TRIT_DENSE_GROUPS, w += TRIT_DENSE_VECTORS * 64) {
        __m256i fifth = broadcast(x + (g + 4) * TRIT_GROUP);
#define VECTOR(j, field)                                                \
    do {                                                                \
        prefetch_ahead(w + j * 64);                                     \
        __m256i v = load_biased(w + j * 64);                            \
        add_bytes(&s.field, first_digit(v), fifth);                     \
        add_fields(triple(v), broadcast(x + (g + j) * TRIT_GROUP), &s); \
    } while (0)
        VECTOR(0, f0);
        VECTOR(1, f1);
        VECTOR(2, f2);
        VECTOR(3, f3);
#undef VECTOR
    }
    for (; g < n_groups; g++, w += 64)
        add_fields(triple(load_biased(w)), broadcast(x + g * TRIT_GROUP), &s);
    flush(sums, half, &s, start);
}

static void sum_panel(const int8_t *x, const uint8_t *w, size_t groups, int32_t *sums)
{
    for (size_t g = 0; g < groups; g += FLUSH_GROUPS) {
        size_t n_groups = groups - g < FLUSH_GROUPS ? groups - g : FLUSH_GROUPS;
        const uint8_t *from = w + trit_dense_vectors(g) * 64;
        add_stretch(x + g * TRIT_GROUP, from, n_groups, 0, g == 0, sums);
        add_stretch(x + g * TRIT_GROUP, from, n_groups, 1, g == 0, sums);
    }
}

void trit_gemv_i8t5_1x64__avx2(const int8_t *restrict x, size_t x_stride, const int32_t *restrict x_sum, size_t m,
                               const uint8_t *restrict w, size_t groups, size_t panel0, size_t panel1, size_t n_outputs,
                               const float *restrict row_scale, float *restrict y, size_t y_stride)
{
    _Alignas(64) int32_t sums[TRIT_PANEL] = {0};
    for (size_t row = 0; row < m; row++)
        for (size_t panel = panel0; panel < panel1; panel++) {
            sum_panel(x + row * x_stride, w + panel * trit_dense_vectors(groups) * 64, groups, sums);
            store_panel(y + row * y_stride, panel, n_outputs, sums, x_sum[row], row_scale[row]);
        }
}

/* The four fields of a vector's half. */
FLATTEN __m256i expand_half(__m256i biased)
{
    __m256i fields = first_digit(biased);
    for (size_t i = 0; i < 3; i++) {
        biased = triple(biased);
        fields = _mm256_add_epi8(fields, fields);
        fields = _mm256_add_epi8(_mm256_add_epi8(fields, fields), first_digit(biased));
    }
    return fields;
}

void trit_expand_t5_64__avx2(const uint8_t *restrict panel_w, size_t groups, uint8_t *restrict t2)
{
    const uint8_t *w = panel_w;
    size_t g = 0;
    for (; g + TRIT_DENSE_GROUPS <= groups; g += TRIT_DENSE_GROUPS, w += TRIT_DENSE_VECTORS * 64)
        for (size_t half = 0; half < 64; half += 32) {
            __m256i last = _mm256_setzero_si256();
            for (size_t j = TRIT_DENSE_VECTORS; j-- > 0;) { /* from field 3 down */
                prefetch_ahead(w + j * 64);
                __m256i v = load_biased(w + j * 64 + half);
                last = _mm256_add_epi8(last, last);
                last = _mm256_add_epi8(_mm256_add_epi8(last, last), first_digit(v));
                store(t2 + (g + j) * 64 + half, expand_half(triple(v)));
            }
            store(t2 + (g + 4) * 64 + half, last);
        }
    for (; g < groups; g++, w += 64)
        for (size_t half = 0; half < 64; half += 32)
            store(t2 + g * 64 + half, expand_half(triple(load_biased(w + half))));
}

int trit_codes_valid_t5_64__avx2(const uint8_t *w, size_t bytes)
{
    return dense_valid_plain(w, bytes);
}
