/*
 * dense.h - the digits of T5_P64G4 bytes in plain C, for the compiler to vectorise with each instruction set's flags.
 *
 * A byte s stands for the fraction s / 256. Its base-3 digits come out one by one: three times s is digit * 256 + the next s. The digits of
 * ceil(256 V / 243) are those of V, because the rounding up stays below one unit of the last digit.
 */
#ifndef TRIT_KERNELS_DENSE_H
#define TRIT_KERNELS_DENSE_H

#include "ops.h"

/* A vector of 64: four digits as the fields of t2, the fifth added to field `field` of last (NULL: a group left over). */
static inline void expand_vector_plain(const uint8_t *restrict w, unsigned field, uint8_t *restrict t2,
                                       uint8_t *restrict last)
{
    for (size_t b = 0; b < 64; b++) {
        unsigned s = w[b] * 3u, byte = 0;
        if (last != NULL)
            last[b] = (uint8_t)(last[b] | s >> 8 << (2 * field));
        for (size_t digit = 0; digit < 4; digit++) {
            s = (s & 0xffu) * 3;
            byte = byte << 2 | s >> 8;
        }
        t2[b] = (uint8_t)byte;
    }
}

static inline void expand_panel_plain(const uint8_t *restrict w, size_t groups, uint8_t *restrict t2)
{
    size_t g = 0;
    for (; g + TRIT_DENSE_GROUPS <= groups; g += TRIT_DENSE_GROUPS) {
        uint8_t *fifth = t2 + (g + 4) * 64;
        for (size_t b = 0; b < 64; b++)
            fifth[b] = 0;
        for (unsigned j = 0; j < TRIT_DENSE_VECTORS; j++, w += 64)
            expand_vector_plain(w, j, t2 + (g + j) * 64, fifth);
    }
    for (; g < groups; g++, w += 64)
        expand_vector_plain(w, 0, t2 + g * 64, NULL);
}

/* 243 s = 256 V + rest with rest < 243 exactly for the bytes that occur. A page at a time, so that damage ends the scan early. */
static inline int dense_valid_plain(const uint8_t *w, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        size_t end = bytes - at < 4096 ? bytes : at + 4096;
        uint8_t worst = 0;
        for (; at < end; at++) {
            uint8_t rest = (uint8_t)(w[at] * 243u);
            worst = rest > worst ? rest : worst;
        }
        if (worst >= 243)
            return 0;
    }
    return 1;
}

#endif
