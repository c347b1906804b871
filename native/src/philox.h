/*
 * philox.h - Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3. SC 2011), and the sampler's Gumbel noise.
 *
 * Counter-based: noise is a pure function of (seed, position, id), so a stream can be resumed at any position.
 */
#ifndef TRIT_PHILOX_H
#define TRIT_PHILOX_H

#include <stdint.h>

static inline void trit_philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/*
 * The 23 random bits behind u = (n + 0.5) * 2^-23. One bit more would not fit a float beside the half: n = 2^24 - 1 would round to
 * u = 1, whose noise is infinite, and once in 16.8 million draws a token would win whatever its probability.
 */
static inline uint32_t trit_noise_bits(uint64_t seed, int32_t position, uint32_t id)
{
    const uint32_t counter[4] = {id, (uint32_t)position, 0, 0};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t out[4];
    trit_philox4x32_10(counter, key, out);
    return out[0] >> 9;
}

/* gcc 12 unrolls 16 lanes to scalar code, 2.5 times slower. */
enum { TRIT_NOISE_LANES = 32 };

/* The same for TRIT_NOISE_LANES ids from first_id on: rounds over lanes, which compilers turn into vector multiplies. */
static inline void trit_noise_bits_of_lanes(uint64_t seed, int32_t position, uint32_t first_id,
                                            uint32_t bits[TRIT_NOISE_LANES])
{
    uint32_t c0[TRIT_NOISE_LANES], c1[TRIT_NOISE_LANES], c2[TRIT_NOISE_LANES], c3[TRIT_NOISE_LANES];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (uint32_t i = 0; i < TRIT_NOISE_LANES; i++) {
        c0[i] = first_id + i;
        c1[i] = (uint32_t)position;
        c2[i] = c3[i] = 0;
    }
    for (int round = 0; round < 10; round++) {
        for (uint32_t i = 0; i < TRIT_NOISE_LANES; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)p1;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (uint32_t i = 0; i < TRIT_NOISE_LANES; i++)
        bits[i] = c0[i] >> 9;
}

#endif
