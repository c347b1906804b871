/*
 * dense.c - TRIT_LAYOUT_T2_P64G4 to and from TRIT_LAYOUT_T5_P64G4: five codes in a byte.
 *
 * Five groups of a panel (T2: five vectors of 64 bytes, four codes in each byte) become four vectors. Byte b of each:
 *
 *      vector            0                 1                 2                 3
 *      four codes of     group 0, byte b   group 1, byte b   group 2, byte b   group 3, byte b
 *      and of group 4    field 0           field 1           field 2           field 3           of its byte b
 *
 *      V = 81 * fifth + 27 * field 3 + 9 * field 2 + 3 * field 1 + field 0,   byte = ceil(256 V / 243)
 *
 * A byte is the fraction V / 243 in 256ths, rounded up: multiplying by three gives digit after digit without a division. The up to four
 * groups behind the last five take a vector each, with 1 as the fifth.
 */
#include "checked.h"
#include "ops.h"

static trit_status check_pair(const void *t2, uint64_t t2_bytes, const void *dense, uint64_t dense_bytes, int64_t n,
                              int64_t k, trit_error *err)
{
    if (t2 == NULL || dense == NULL)
        return pack_fail(err, TRIT_ERR_ARGUMENT, "%s is NULL", t2 == NULL ? "t2" : "dense");
    uint64_t t2_expected = trit_layout_bytes(TRIT_LAYOUT_T2_P64G4, n, k);
    uint64_t dense_expected = trit_layout_bytes(TRIT_LAYOUT_T5_P64G4, n, k);
    if (t2_expected == 0 || dense_expected == 0)
        return pack_fail(err, TRIT_ERR_ARGUMENT,
                         "shape is (%lld, %lld), expected positive sizes whose product fits memory", (long long)n,
                         (long long)k);
    if (t2_bytes != t2_expected || dense_bytes != dense_expected)
        return pack_fail(err, TRIT_ERR_ARGUMENT,
                         "buffers have %llu and %llu bytes, expected %llu and %llu for (%lld, %lld)",
                         (unsigned long long)t2_bytes, (unsigned long long)dense_bytes, (unsigned long long)t2_expected,
                         (unsigned long long)dense_expected, (long long)n, (long long)k);
    return TRIT_OK;
}

static unsigned field_of(uint8_t byte, size_t field)
{
    return (unsigned)byte >> (2 * field) & 3u;
}

static uint8_t dense_byte(uint8_t four, unsigned fifth)
{
    unsigned v =
        81 * fifth + 27 * field_of(four, 3) + 9 * field_of(four, 2) + 3 * field_of(four, 1) + field_of(four, 0);
    return (uint8_t)((256 * v + 242) / 243);
}

static void pack_panel(const uint8_t *t2, size_t groups, uint8_t *out)
{
    size_t g = 0;
    for (; g + TRIT_DENSE_GROUPS <= groups; g += TRIT_DENSE_GROUPS)
        for (size_t j = 0; j < TRIT_DENSE_VECTORS; j++, out += 64)
            for (size_t b = 0; b < 64; b++)
                out[b] = dense_byte(t2[(g + j) * 64 + b], field_of(t2[(g + 4) * 64 + b], j));
    for (; g < groups; g++, out += 64)
        for (size_t b = 0; b < 64; b++)
            out[b] = dense_byte(t2[g * 64 + b], 1);
}

trit_status trit_pack_dense(const uint8_t *t2, uint64_t t2_bytes, int64_t n, int64_t k, uint8_t *out,
                            uint64_t out_bytes, trit_error *err)
{
    trit_status status = check_pair(t2, t2_bytes, out, out_bytes, n, k, err);
    if (status != TRIT_OK)
        return status;
    for (size_t i = 0; i < (size_t)t2_bytes; i++)
        if ((t2[i] & (t2[i] >> 1) & 0x55u) != 0)
            return pack_fail(err, TRIT_ERR_FORMAT, "packed byte %zu is 0x%02x: it holds the code 3, which never occurs",
                             i, t2[i]);
    size_t groups = (size_t)round_up(k, 64) / TRIT_GROUP, panels = (size_t)round_up(n, TRIT_PANEL) / TRIT_PANEL;
    for (size_t panel = 0; panel < panels; panel++)
        pack_panel(t2 + panel * groups * 64, groups, out + panel * trit_dense_vectors(groups) * 64);
    return TRIT_OK;
}

/* V of a byte into the four fields and the fifth; 0 for a byte that never occurs. */
static int split(uint8_t byte, uint8_t *four, unsigned *fifth)
{
    unsigned v = byte * 243u / 256;
    if ((256 * v + 242) / 243 != byte)
        return 0;
    *fifth = v / 81;
    *four = (uint8_t)(v % 3 | v / 3 % 3 << 2 | v / 9 % 3 << 4 | v / 27 % 3 << 6);
    return 1;
}

static int unpack_panel(const uint8_t *dense, size_t groups, uint8_t *t2)
{
    for (size_t g = 0; g < groups; g++) {
        size_t in_block = g % TRIT_DENSE_GROUPS;
        int whole = g - in_block + TRIT_DENSE_GROUPS <= groups;
        if (whole && in_block == 4)
            continue; /* put together from the four vectors before */
        for (size_t b = 0; b < 64; b++) {
            unsigned fifth;
            if (!split(dense[b], &t2[g * 64 + b], &fifth) || (!whole && fifth != 1))
                return 0;
            if (whole) {
                uint8_t *last = &t2[(g - in_block + 4) * 64 + b];
                *last = (uint8_t)((in_block == 0 ? 0u : *last) | fifth << (2 * in_block));
            }
        }
        dense += 64;
    }
    return 1;
}

trit_status trit_unpack_dense(const uint8_t *dense, uint64_t bytes, int64_t n, int64_t k, uint8_t *t2,
                              uint64_t t2_bytes, trit_error *err)
{
    trit_status status = check_pair(t2, t2_bytes, dense, bytes, n, k, err);
    if (status != TRIT_OK)
        return status;
    size_t groups = (size_t)round_up(k, 64) / TRIT_GROUP, panels = (size_t)round_up(n, TRIT_PANEL) / TRIT_PANEL;
    for (size_t panel = 0; panel < panels; panel++)
        if (!unpack_panel(dense + panel * trit_dense_vectors(groups) * 64, groups, t2 + panel * groups * 64))
            return pack_fail(err, TRIT_ERR_FORMAT, "panel %zu holds a byte that never occurs", panel);
    return TRIT_OK;
}
