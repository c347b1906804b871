/* Damage check of packed ternary bytes, the specification: no two-bit field may be 3. */
#include "ops.h"

trit_codes_valid_fn trit_codes_valid_t2_1__ref;

int trit_codes_valid_t2_1__ref(const uint8_t *w, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((w[i] & (w[i] >> 1) & 0x55u) != 0)
            return 0;
    return 1;
}
