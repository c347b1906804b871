/* Damage check of packed ternary bytes: no two-bit field may be 3. A page at a time, so that damage ends the scan early. */
#include <immintrin.h>

#include "ops.h"

trit_codes_valid_fn trit_codes_valid_t2_64__avx2;

enum { BYTES_PER_LOOK = 4096 };

int trit_codes_valid_t2_64__avx2(const uint8_t *w, size_t bytes)
{
    const __m256i low_bits = _mm256_set1_epi8(0x55);
    for (size_t at = 0; at < bytes;) {
        size_t end = bytes - at < BYTES_PER_LOOK ? bytes : at + BYTES_PER_LOOK;
        __m256i threes = _mm256_setzero_si256();
        for (; at < end; at += 64) {
            __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(w + at));
            __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(w + at + 32));
            threes = _mm256_or_si256(threes, _mm256_and_si256(a, _mm256_srli_epi16(a, 1)));
            threes = _mm256_or_si256(threes, _mm256_and_si256(b, _mm256_srli_epi16(b, 1)));
        }
        if (!_mm256_testz_si256(threes, low_bits))
            return 0;
    }
    return 1;
}
