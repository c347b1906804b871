/* checksum.c - see checksum.h. Eight lanes hide the multiplier's latency: about 8 bytes a cycle in plain C. */
#include <assert.h>
#include <string.h>

#include "checksum.h"

enum { LANES = 8 };

uint64_t trit_checksum_word(uint64_t sum, uint64_t word)
{
    sum ^= word;
    return (sum << 29 | sum >> 35) * 0x9e3779b97f4a7c15u;
}

uint64_t trit_checksum(uint64_t seed, const void *bytes, size_t n_bytes)
{
    assert(n_bytes % (LANES * 8) == 0);
    const unsigned char *at = bytes;
    uint64_t lanes[LANES];
    for (size_t i = 0; i < LANES; i++)
        lanes[i] = seed + i;
    for (size_t done = 0; done < n_bytes; done += LANES * 8)
        for (size_t i = 0; i < LANES; i++) {
            uint64_t word;
            memcpy(&word, at + done + i * 8, sizeof word);
            lanes[i] = trit_checksum_word(lanes[i], word);
        }
    uint64_t sum = trit_checksum_word(seed, n_bytes);
    for (size_t i = 0; i < LANES; i++)
        sum = trit_checksum_word(sum, lanes[i]);
    return sum ^ sum >> 32;
}
