/*
 * checksum.h - a fast 64-bit checksum against torn and stale memory (not against forgery): the KV blocks and the model's fingerprint.
 *
 * Eight independent lanes take the 64-bit words of the bytes in turn: lane = rotl(lane ^ word, 29) * M with an odd M. Each step is a
 * bijection of the lane for a given word and of the word for a given lane, so a change confined to one word always shows. The lanes
 * are then folded in order by the same step. bytes is a multiple of 64.
 */
#ifndef TRIT_CHECKSUM_H
#define TRIT_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t trit_checksum(uint64_t seed, const void *bytes, size_t n_bytes);
/* One word into a running value by the same step. */
uint64_t trit_checksum_word(uint64_t sum, uint64_t word);

#endif
