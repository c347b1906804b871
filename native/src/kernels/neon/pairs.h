/*
 * pairs.h - the microkernel that qk and av share: int16 rows times a matrix of pairs, smlal into int32, wrapping as the reference does.
 *
 * The pairs are of int16, or of int8 that are widened as they are loaded.
 *
 *      acc[row][lane] += sum over p < n_pairs of  a[row][2p] * b[p][lane][0] + a[row][2p + 1] * b[p][lane][1],   lane < 16
 *
 * K is stored as [head_dim / 2][16 tokens][2] and V as [token / 2][head_dim][2]: both are rows of pairs, and a two-way load takes
 * them apart.
 */
#ifndef TRIT_KERNELS_NEON_PAIRS_H
#define TRIT_KERNELS_NEON_PAIRS_H

#include <arm_neon.h>

#include "ops.h"

enum { PAIR_ROWS = 4, PAIR_LANES = 16 };

#define INLINE static inline __attribute__((always_inline))

/* Eight pairs of elements of `width` bytes, a constant, taken apart. */
INLINE int16x8x2_t load_pairs(const void *from, size_t width)
{
    if (width == sizeof(int16_t))
        return vld2q_s16(from);
    int8x8x2_t narrow = vld2_s8(from);
    return (int16x8x2_t){{vmovl_s8(narrow.val[0]), vmovl_s8(narrow.val[1])}};
}

/* Pair p + l, of which the rows' elements are 2l and 2l + 1 of the register; an element is part of the instruction. */
#define ADD_PAIR(l)                                                                          \
    do {                                                                                     \
        int16x8x2_t b0 = load_pairs(b + (p + (l)) * pair_bytes, width);                      \
        int16x8x2_t b1 = load_pairs(b + (p + (l)) * pair_bytes + 16 * width, width);         \
        for (size_t row = 0; row < rows; row++) {                                            \
            int32x4_t *s = acc[row];                                                         \
            s[0] = vmlal_laneq_s16(s[0], vget_low_s16(b0.val[0]), values[row], 2 * (l));     \
            s[1] = vmlal_high_laneq_s16(s[1], b0.val[0], values[row], 2 * (l));              \
            s[2] = vmlal_laneq_s16(s[2], vget_low_s16(b1.val[0]), values[row], 2 * (l));     \
            s[3] = vmlal_high_laneq_s16(s[3], b1.val[0], values[row], 2 * (l));              \
            s[0] = vmlal_laneq_s16(s[0], vget_low_s16(b0.val[1]), values[row], 2 * (l) + 1); \
            s[1] = vmlal_high_laneq_s16(s[1], b0.val[1], values[row], 2 * (l) + 1);          \
            s[2] = vmlal_laneq_s16(s[2], vget_low_s16(b1.val[1]), values[row], 2 * (l) + 1); \
            s[3] = vmlal_high_laneq_s16(s[3], b1.val[1], values[row], 2 * (l) + 1);          \
        }                                                                                    \
    } while (0)

INLINE void pairs_zero(int32x4_t acc[PAIR_ROWS][4])
{
    for (size_t row = 0; row < PAIR_ROWS; row++)
        for (size_t i = 0; i < 4; i++)
            acc[row][i] = vdupq_n_s32(0);
}

/* rows 1..4, a constant where inlined. Reads a in steps of 8 elements, up to its padding. pair_bytes: from pair to pair. */
INLINE void pairs_add(const int16_t *a, size_t a_stride, size_t rows, const char *b, size_t width, size_t pair_bytes,
                      size_t n_pairs, int32x4_t acc[PAIR_ROWS][4])
{
    int16x8_t values[PAIR_ROWS];
    size_t p = 0;
    for (; p + 4 <= n_pairs; p += 4) {
        for (size_t row = 0; row < rows; row++)
            values[row] = vld1q_s16(a + row * a_stride + 2 * p);
        ADD_PAIR(0);
        ADD_PAIR(1);
        ADD_PAIR(2);
        ADD_PAIR(3);
    }
    if (p == n_pairs)
        return;
    for (size_t row = 0; row < rows; row++)
        values[row] = vld1q_s16(a + row * a_stride + 2 * p);
    ADD_PAIR(0);
    if (p + 1 < n_pairs)
        ADD_PAIR(1);
    if (p + 2 < n_pairs)
        ADD_PAIR(2);
}

#endif
