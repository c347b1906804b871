/*
 * Ternary columns: the runs of four inputs, interleaved byte by byte, are vectors of T2_P64G4 (trit.h), whose fields are operands of
 * vpdpbusd. Four panels at a time, one per 128-bit lane: 16 accumulators, 4 interleavings x 4 fields.
 *
 * Any four inputs of a row's list go together: nothing is read or multiplied for an input that is not on it.
 */
#include "zmm.h"

trit_down_inputs_fn TRIT_KERNEL(trit_down_inputs_i8t2_4x256);
trit_down_pairs_fn TRIT_KERNEL(trit_down_pairs_i8t2_1x256);

enum { PIECE = 64, PANEL_BYTES = 16, CHUNK_QUADS = 16, SEGMENT = 1024, VECTORS = 16 };

/* Four runs and their inputs. */
typedef struct quad {
    const uint8_t *runs[4];
    int32_t inputs;
} quad;

/* sums [4 interleavings][4 fields], field f times 4^f; no sum wraps (packed_file.c bounds K). */
FLATTEN void add_quads(const quad *quads, size_t n_quads, size_t at, __mmask16 lanes, __m512i *sums)
{
    const __m512i m0 = _mm512_set1_epi8(0x03), m1 = _mm512_set1_epi8(0x0c), m2 = _mm512_set1_epi8(0x30),
                  m3 = _mm512_set1_epi8((char)0xc0);
#define EACH(DO) DO(0) DO(1) DO(2) DO(3)
#define BEGIN(q)                                                                                \
    __m512i a##q = _mm512_load_si512(sums + 4 * q), b##q = _mm512_load_si512(sums + 4 * q + 1), \
            c##q = _mm512_load_si512(sums + 4 * q + 2), d##q = _mm512_load_si512(sums + 4 * q + 3);
    EACH(BEGIN)
#undef BEGIN
    for (size_t i = 0; i < n_quads; i++) {
        const quad *from = &quads[i];
        __m512i inputs = _mm512_set1_epi32(from->inputs);
        __m512i r0 = _mm512_maskz_loadu_epi32(lanes, from->runs[0] + at);
        __m512i r1 = _mm512_maskz_loadu_epi32(lanes, from->runs[1] + at);
        __m512i r2 = _mm512_maskz_loadu_epi32(lanes, from->runs[2] + at);
        __m512i r3 = _mm512_maskz_loadu_epi32(lanes, from->runs[3] + at);
        __m512i low01 = _mm512_unpacklo_epi8(r0, r1), high01 = _mm512_unpackhi_epi8(r0, r1);
        __m512i low23 = _mm512_unpacklo_epi8(r2, r3), high23 = _mm512_unpackhi_epi8(r2, r3);
        __m512i v0 = _mm512_unpacklo_epi16(low01, low23), v1 = _mm512_unpackhi_epi16(low01, low23);
        __m512i v2 = _mm512_unpacklo_epi16(high01, high23), v3 = _mm512_unpackhi_epi16(high01, high23);
#define ADD(q)                                            \
    add_bytes(&a##q, _mm512_and_si512(v##q, m0), inputs); \
    add_bytes(&b##q, _mm512_and_si512(v##q, m1), inputs); \
    add_bytes(&c##q, _mm512_and_si512(v##q, m2), inputs); \
    add_bytes(&d##q, _mm512_and_si512(v##q, m3), inputs);
        EACH(ADD)
#undef ADD
    }
#define END(q)                                  \
    _mm512_store_si512(sums + 4 * q, a##q);     \
    _mm512_store_si512(sums + 4 * q + 1, b##q); \
    _mm512_store_si512(sums + 4 * q + 2, c##q); \
    _mm512_store_si512(sums + 4 * q + 3, d##q);
    EACH(END)
#undef END
}

APART void add_pieces(const quad *quads, size_t n_quads, size_t at0, size_t at1, __m512i *sums)
{
    for (size_t at = at0; at < at1; at += PIECE)
        add_quads(quads, n_quads, at, first_lanes((at1 - at) / 4), sums + (at - at0) / PIECE * VECTORS);
}

/* sums of the pieces of [at0, at1) to acc, output by output: acc[64 p + 16 f + 4 q + j] += dword 4 p + j of interleaving q, field f. */
static void take_sums(const __m512i *sums, size_t at0, size_t at1, int32_t *acc)
{
    for (size_t at = at0; at < at1; at += PIECE) {
        const __m512i *from = sums + (at - at0) / PIECE * VECTORS;
        size_t panels = (at1 - at < PIECE ? at1 - at : PIECE) / PANEL_BYTES;
        for (size_t q = 0; q < 4; q++)
            for (size_t f = 0; f < 4; f++) {
                int32_t dwords[LANES];
                memcpy(dwords, &from[4 * q + f], sizeof dwords);
                for (size_t p = 0; p < panels; p++)
                    for (size_t j = 0; j < 4; j++)
                        acc[(at - at0) * 4 + TRIT_PANEL * p + 16 * f + 4 * q + j] += dwords[4 * p + j] >> (2 * f);
            }
    }
}

/* Quads of the inputs from[0 .. n) on a list; missing ones are 0. */
static void quads_of_inputs(const int8_t *x, const int32_t *from, size_t n, const uint8_t *w, size_t run_bytes,
                            quad *quads)
{
    for (size_t i = 0; i < (n + 3) / 4 * 4; i++) {
        size_t input = (size_t)from[i < n ? i : n - 1];
        quad *q = &quads[i / 4];
        uint32_t byte = i < n ? (uint8_t)x[input] : 0u, known = i % 4 == 0 ? 0u : (uint32_t)q->inputs;
        q->runs[i % 4] = w + input * run_bytes;
        q->inputs = (int32_t)(known | byte << (8 * (i % 4)));
    }
}

void TRIT_KERNEL(trit_down_inputs_i8t2_4x256)(const int8_t *restrict x, const int32_t *restrict inputs, size_t n_inputs,
                                              size_t n_ahead, const uint8_t *restrict w, size_t run_bytes,
                                              int32_t *restrict acc)
{
    (void)n_ahead;
    _Alignas(64) __m512i sums[SEGMENT / PIECE * VECTORS];
    quad quads[CHUNK_QUADS];
    for (size_t at0 = 0; at0 < run_bytes; at0 += SEGMENT) {
        size_t at1 = run_bytes - at0 < SEGMENT ? run_bytes : at0 + SEGMENT;
        memset(sums, 0, sizeof sums);
        for (size_t i = 0; i < n_inputs; i += 4 * CHUNK_QUADS) {
            size_t n = n_inputs - i < 4 * CHUNK_QUADS ? n_inputs - i : 4 * CHUNK_QUADS;
            quads_of_inputs(x, inputs + i, n, w, run_bytes, quads);
            for (size_t j = i + n; j < i + n + 4 * CHUNK_QUADS && j < n_inputs; j++) /* the next chunk */
                for (size_t at = at0; at < at1; at += PIECE)
                    _mm_prefetch((const char *)w + (size_t)inputs[j] * run_bytes + at, _MM_HINT_T1);
            add_pieces(quads, (n + 3) / 4, at0, at1, sums);
        }
        take_sums(sums, at0, at1, acc + at0 * 4);
    }
}

/* Quads of n entries of a list of pairs. */
static void quads_of_pairs(const uint32_t *pairs, size_t n, const uint8_t *w, size_t run_bytes, quad *quads)
{
    for (size_t i = 0; i < n; i += 2) {
        uint32_t first = pairs[i], second = i + 1 < n ? pairs[i + 1] : first & 0xffff0000u;
        const uint8_t *one = w + (size_t)(first >> 16) * 2 * run_bytes,
                      *two = w + (size_t)(second >> 16) * 2 * run_bytes;
        quads[i / 2] =
            (quad){{one, one + run_bytes, two, two + run_bytes}, (int32_t)((first & 0xffffu) | second << 16)};
    }
}

void TRIT_KERNEL(trit_down_pairs_i8t2_1x256)(const uint32_t *restrict pairs, size_t pairs_stride,
                                             const int32_t *restrict n_pairs, const int32_t *restrict x_sum, size_t m,
                                             const uint8_t *restrict w, size_t n_inputs, size_t panel0, size_t panel1,
                                             size_t n_outputs, const float *restrict row_scale, float *restrict y,
                                             size_t y_stride)
{
    (void)n_inputs;
    _Alignas(64) __m512i sums[VECTORS];
    quad quads[CHUNK_QUADS];
    size_t run_bytes = (n_outputs + TRIT_PANEL - 1) / TRIT_PANEL * PANEL_BYTES;
    for (size_t panel = panel0; panel < panel1; panel += 4) {
        size_t at0 = panel * PANEL_BYTES, at1 = (panel1 - panel < 4 ? panel1 : panel + 4) * PANEL_BYTES;
        for (size_t row = 0; row < m; row++) {
            int32_t acc[4 * TRIT_PANEL];
            size_t n = (size_t)n_pairs[row], first = panel * TRIT_PANEL;
            const uint32_t *list = pairs + row * pairs_stride;
            memset(sums, 0, sizeof sums);
            for (size_t i = 0; i < n; i += 2 * CHUNK_QUADS) {
                size_t now = n - i < 2 * CHUNK_QUADS ? n - i : 2 * CHUNK_QUADS;
                quads_of_pairs(list + i, now, w, run_bytes, quads);
                add_pieces(quads, (now + 1) / 2, at0, at1, sums);
            }
            memset(acc, 0, sizeof acc);
            take_sums(sums, at0, at1, acc);
            for (size_t i = 0; i < 4 * (at1 - at0) && first + i < n_outputs; i++)
                y[row * y_stride + first + i] = (float)(acc[i] - x_sum[row]) * row_scale[row];
        }
    }
}
