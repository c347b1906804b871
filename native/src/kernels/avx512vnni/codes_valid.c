/* Damage check of packed ternary bytes: no two-bit field may be 3. A page at a time, so that damage ends the scan early. */
#include "zmm.h"

trit_codes_valid_fn TRIT_KERNEL(trit_codes_valid_t2_64);

enum { BYTES_PER_LOOK = 4096 };

int TRIT_KERNEL(trit_codes_valid_t2_64)(const uint8_t *w, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        size_t end = bytes - at < BYTES_PER_LOOK ? bytes : at + BYTES_PER_LOOK;
        __m512i threes = _mm512_setzero_si512();
        for (; at < end; at += 64) {
            __m512i v = _mm512_load_si512(w + at);
            threes = _mm512_or_si512(threes, _mm512_and_si512(v, _mm512_srli_epi32(v, 1)));
        }
        if (_mm512_test_epi32_mask(threes, _mm512_set1_epi8(0x55)) != 0)
            return 0;
    }
    return 1;
}
