/* layout.c - how many bytes a tensor takes in each layout. Every later size check starts from this one. */
#include "checked.h"
#include "ops.h"

uint64_t trit_layout_bytes(int32_t layout, int64_t n, int64_t k)
{
    uint64_t elements = 0;
    if (n <= 0 || k <= 0)
        return 0;
    switch (layout) {
    case TRIT_LAYOUT_F32:
        if (!checked_mul((uint64_t)n, (uint64_t)k, &elements) || !checked_mul(elements, 4, &elements))
            return 0;
        break;
    case TRIT_LAYOUT_I8:
        if (!checked_mul((uint64_t)n, (uint64_t)k, &elements))
            return 0;
        break;
    case TRIT_LAYOUT_T2_P64G4: /* four weights to a byte */
    case TRIT_LAYOUT_T2_COLS:
        if (!checked_mul(round_up(n, TRIT_PANEL), round_up(k, 64) / 4, &elements))
            return 0;
        break;
    case TRIT_LAYOUT_T2_ROWS:
        if (!checked_mul((uint64_t)n, round_up(k, 256) / 4, &elements))
            return 0;
        break;
    case TRIT_LAYOUT_T5_P64G4: /* five to a byte, but for the groups left over */
        if (!checked_mul(round_up(n, TRIT_PANEL), trit_dense_vectors((size_t)round_up(k, 64) / TRIT_GROUP), &elements))
            return 0;
        break;
    case TRIT_LAYOUT_I16_P16G4: /* two planes */
        if (!checked_mul(round_up(n, TRIT_HEAD_PANEL), round_up(k, 64), &elements) ||
            !checked_mul(elements, 2, &elements))
            return 0;
        break;
    default: return 0;
    }
    /* Nothing larger can be addressed or given as a file offset. */
    return elements <= (uint64_t)INT64_MAX && elements <= SIZE_MAX ? elements : 0;
}
