/*
 * head.c - float rows to TRIT_LAYOUT_I16_P16G4: int16 with a power-of-two scale per row, in two balanced byte planes.
 *
 *      e = rint(w * 2^shift) = 256 * hi + lo,   |e| <= 32,512,   hi and lo in [-128, 127]
 *
 *      plane      [panel of 16 rows][group of 4 inputs][16 rows][4 inputs] int8, the high plane first, then the low one
 *
 *      byte b      0    1    2    3  |  4    5    6    7  | ... | 60   61   62   63
 *      row              0            |       1            | ... |       15             of the panel
 *      input       0    1    2    3  |  0    1    2    3  | ... |  0    1    2    3    of the group
 *
 * Rows are padded to 16 and inputs to 64 with zeros.
 */
#include <math.h>
#include <string.h>

#include "checked.h"

enum {
    LIMIT = 32512,  /* 127 * 256: the largest value whose balanced high digit fits int8 */
    MAX_SHIFT = 126 /* 2^-shift must be a normal float; reached by rows below 2e-34 only */
};

/* The largest shift with rint(absmax * 2^shift) <= LIMIT; 0 for a zero row. */
static int row_shift(double absmax)
{
    if (absmax == 0.0)
        return 0;
    int exponent;
    double mantissa = frexp(absmax, &exponent); /* [0.5, 1) */
    int shift = 15 - exponent;
    if (rint(mantissa * 32768.0) > LIMIT)
        shift--;
    return shift > MAX_SHIFT ? MAX_SHIFT : shift;
}

trit_status trit_pack_head(const float *rows, int64_t row0, int64_t n_rows, int64_t n, int64_t k, uint8_t *out,
                           uint64_t out_bytes, int8_t *shift, trit_error *err)
{
    if (rows == NULL || out == NULL || shift == NULL)
        return pack_fail(err, TRIT_ERR_ARGUMENT, "%s is NULL", rows == NULL ? "rows" : out == NULL ? "out" : "shift");
    uint64_t expected = trit_layout_bytes(TRIT_LAYOUT_I16_P16G4, n, k);
    if (expected == 0 || trit_layout_bytes(TRIT_LAYOUT_F32, n, k) == 0)
        return pack_fail(err, TRIT_ERR_ARGUMENT,
                         "shape is (%lld, %lld), expected positive sizes whose product fits memory", (long long)n,
                         (long long)k);
    if (out_bytes != expected)
        return pack_fail(err, TRIT_ERR_ARGUMENT, "packed buffer has %llu bytes, expected %llu for (%lld, %lld)",
                         (unsigned long long)out_bytes, (unsigned long long)expected, (long long)n, (long long)k);
    if (row0 < 0 || row0 % TRIT_HEAD_PANEL != 0 || row0 >= n || n_rows <= 0 || n_rows > n - row0)
        return pack_fail(err, TRIT_ERR_ARGUMENT,
                         "rows are [%lld, %lld + %lld), expected a multiple of %d first, and at most %lld rows in all",
                         (long long)row0, (long long)row0, (long long)n_rows, TRIT_HEAD_PANEL, (long long)n);
    if (n_rows % TRIT_HEAD_PANEL != 0 && row0 + n_rows != n)
        return pack_fail(err, TRIT_ERR_ARGUMENT, "n_rows is %lld, expected a multiple of %d before the last rows",
                         (long long)n_rows, TRIT_HEAD_PANEL);

    size_t count = (size_t)n_rows, columns = (size_t)k;
    for (size_t i = 0; i < count * columns; i++)
        if (!isfinite(rows[i]))
            return pack_fail(err, TRIT_ERR_ARGUMENT, "weight at (%lld, %zu) is not finite",
                             (long long)row0 + (long long)(i / columns), i % columns);

    size_t groups = (size_t)round_up(k, 64) / TRIT_GROUP;
    uint8_t *first = out + (size_t)row0 / TRIT_HEAD_PANEL * groups * 64;
    size_t plane_bytes = (size_t)out_bytes / 2;
    size_t padded_bytes = (size_t)round_up(n_rows, TRIT_HEAD_PANEL) * groups * TRIT_GROUP;
    memset(first, 0, padded_bytes);
    memset(first + plane_bytes, 0, padded_bytes);
    for (size_t r = 0; r < count; r++) {
        const float *row = rows + r * columns;
        double absmax = 0.0;
        for (size_t c = 0; c < columns;
             c++) { /* not fmax: gcc 12 for AArch64 fails on its reduction (internal error) */
            double magnitude = fabs((double)row[c]);
            absmax = magnitude > absmax ? magnitude : absmax;
        }
        int row_exponent = row_shift(absmax);
        double scale = ldexp(1.0, row_exponent);
        uint8_t *hi = first + r / TRIT_HEAD_PANEL * groups * 64 + r % TRIT_HEAD_PANEL * TRIT_GROUP;
        for (size_t c = 0; c < columns; c++) {
            int e = (int)rint((double)row[c] * scale);
            int low = ((e + 128) & 255) - 128;
            size_t at = c / TRIT_GROUP * 64 + c % TRIT_GROUP;
            hi[at] = (uint8_t)((e - low) / 256);
            hi[plane_bytes + at] = (uint8_t)low;
        }
        shift[r] = (int8_t)row_exponent;
    }
    return TRIT_OK;
}
