/*
 * rank.h - the leaders of a row of logits in rank order (value descending, id ascending), without sorting the whole row.
 *
 * An entry is one integer: the value's bits turned so that larger values come first, then the id; entries ascend in rank order.
 */
#ifndef TRIT_RANK_H
#define TRIT_RANK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t trit_rank_entry(float value, uint32_t id)
{
    uint32_t bits;
    value = value + 0.0f; /* -0 and 0 rank alike */
    memcpy(&bits, &value, sizeof bits);
    /* Floats order like sign and magnitude: descending means inverted. */
    bits = (bits & 0x80000000u) != 0 ? bits : ~bits & 0x7fffffffu;
    return (uint64_t)bits << 32 | id;
}

static inline uint32_t trit_rank_id(uint64_t entry)
{
    return (uint32_t)entry;
}

static inline float trit_rank_value(uint64_t entry)
{
    uint32_t bits = (uint32_t)(entry >> 32);
    float value;
    bits = (bits & 0x80000000u) != 0 ? bits : ~bits & 0x7fffffffu;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Ascending entries, best first. spare (n). Entries of equal value must stand in the order of their ids. */
void trit_rank_sort(uint64_t *entries, uint64_t *spare, size_t n);

/* Entries of all ids whose value is at least `floor`, sorted; returns how many. entries, spare (n). */
size_t trit_rank_leaders(const float *values, size_t n, float floor, uint64_t *entries, uint64_t *spare);

#endif
