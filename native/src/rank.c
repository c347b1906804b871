/* rank.c - see rank.h. */
#include "rank.h"

enum { SMALL = 48, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

static void insertion_sort(uint64_t *entries, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        uint64_t entry = entries[i];
        size_t at = i;
        for (; at > 0 && entries[at - 1] > entry; at--)
            entries[at] = entries[at - 1];
        entries[at] = entry;
    }
}

/* Three stable passes over the 32 value bits; ids come in ascending and stay so among equal values. */
static void radix_sort(uint64_t *entries, uint64_t *spare, size_t n)
{
    uint64_t *from = entries, *to = spare;
    for (unsigned shift = 32; shift < 64; shift += DIGIT_BITS) {
        size_t starts[DIGITS] = {0};
        for (size_t i = 0; i < n; i++)
            starts[from[i] >> shift & (DIGITS - 1)]++;
        size_t sum = 0;
        for (size_t digit = 0; digit < DIGITS; digit++) {
            size_t count = starts[digit];
            starts[digit] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++)
            to[starts[from[i] >> shift & (DIGITS - 1)]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    memcpy(entries, from, n * sizeof *entries); /* an odd number of passes: from is spare */
}

void trit_rank_sort(uint64_t *entries, uint64_t *spare, size_t n)
{
    if (n <= SMALL)
        insertion_sort(entries, n);
    else
        radix_sort(entries, spare, n);
}

size_t trit_rank_leaders(const float *values, size_t n, float floor, uint64_t *entries, uint64_t *spare)
{
    size_t count = 0;
    for (size_t id = 0; id < n; id++) {
        entries[count] = trit_rank_entry(values[id], (uint32_t)id);
        count += values[id] >= floor; /* no branch: written always, kept if it counts */
    }
    trit_rank_sort(entries, spare, count);
    return count;
}
