/* Damage check of packed ternary bytes: a field is 3 if both its bits are set. */
#include <arm_neon.h>

#include "ops.h"

trit_codes_valid_fn trit_codes_valid_t2_64__neon;

int trit_codes_valid_t2_64__neon(const uint8_t *w, size_t bytes)
{
    uint8x16_t found[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
    for (size_t i = 0; i < bytes; i += 64)
        for (size_t j = 0; j < 4; j++) {
            uint8x16_t codes = vld1q_u8(w + i + 16 * j);
            found[j] = vorrq_u8(found[j], vandq_u8(codes, vshrq_n_u8(codes, 1)));
        }
    uint8x16_t any = vorrq_u8(vorrq_u8(found[0], found[1]), vorrq_u8(found[2], found[3]));
    return vmaxvq_u8(vandq_u8(any, vdupq_n_u8(0x55))) == 0;
}
