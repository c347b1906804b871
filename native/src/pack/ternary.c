/*
 * ternary.c - codes to and from the ternary layouts, and from the packed bytes of Hugging Face checkpoints.
 *
 * TRIT_LAYOUT_T2_P64G4. One 64-byte vector holds 64 outputs x 4 inputs of (panel p, group g), at byte (p * groups + g) * 64:
 *
 *      byte b      0     1     2     3   |  4     5     6     7   | ... |  60    61    62    63
 *      input      g+0   g+1   g+2   g+3  | g+0   g+1   g+2   g+3  | ... | g+0   g+1   g+2   g+3      (g stands for 4g)
 *      bits 0-1        output  0         |      output  1         | ... |      output 15
 *      bits 2-3        output 16         |      output 17         | ... |      output 31
 *      bits 4-5        output 32         |      output 33         | ... |      output 47
 *      bits 6-7        output 48         |      output 49         | ... |      output 63             (of the panel)
 *
 * TRIT_LAYOUT_T2_ROWS. 64 bytes hold 256 inputs of one output, at byte (n * units + u) * 64:
 *
 *      byte b      0     1     2     3   ...   63
 *      bits 0-1    0     1     2     3   ...   63      input of the unit
 *      bits 2-3   64    65    66    67   ...  127
 *      bits 4-5  128   129   130   131   ...  191
 *      bits 6-7  192   193   194   195   ...  255
 *
 * TRIT_LAYOUT_T2_COLS. 16 bytes hold 64 outputs of one input, at byte (k * panels + p) * 16:
 *
 *      byte b      0     1     2     3   ...   15
 *      bits 0-1    0     1     2     3   ...   15      output of the panel
 *      bits 2-3   16    17    18    19   ...   31
 *      bits 4-5   32    33    34    35   ...   47
 *      bits 6-7   48    49    50    51   ...   63
 *
 * The value is the weight plus one: 0, 1, 2. Padding is weight 0, so a padded byte is 0x55. 3 never occurs: it means damage.
 */
#include <string.h>

#include "checked.h"

enum { PAD_BYTE = 0x55 };

/* Elements of (n, k), or 0 with *err filled. */
static uint64_t element_count(int64_t n, int64_t k, trit_error *err)
{
    uint64_t count = trit_layout_bytes(TRIT_LAYOUT_I8, n, k);
    if (count == 0)
        pack_fail(err, TRIT_ERR_ARGUMENT, "shape is (%lld, %lld), expected positive sizes whose product fits memory",
                  (long long)n, (long long)k);
    return count;
}

static trit_status check_packed(int32_t layout, const void *codes, const void *packed, uint64_t bytes, int64_t n,
                                int64_t k, trit_error *err)
{
    if (layout != TRIT_LAYOUT_T2_P64G4 && layout != TRIT_LAYOUT_T2_ROWS && layout != TRIT_LAYOUT_T2_COLS)
        return pack_fail(err, TRIT_ERR_ARGUMENT, "layout is %d, expected a ternary one", layout);
    if (codes == NULL || packed == NULL)
        return pack_fail(err, TRIT_ERR_ARGUMENT, "%s is NULL", codes == NULL ? "codes" : "packed");
    if (element_count(n, k, err) == 0)
        return TRIT_ERR_ARGUMENT;
    uint64_t expected = trit_layout_bytes(layout, n, k);
    if (expected == 0 || bytes != expected)
        return pack_fail(err, TRIT_ERR_ARGUMENT, "packed buffer has %llu bytes, expected %llu for (%lld, %lld)",
                         (unsigned long long)bytes, (unsigned long long)expected, (long long)n, (long long)k);
    return TRIT_OK;
}

/* Where the weight of output r and input c stands. */
typedef struct place {
    size_t byte;
    unsigned shift;
} place;

/* inner: groups (T2_P64G4), bytes of a row (T2_ROWS) or panels (T2_COLS). layout is a constant where inlined. */
static inline place place_of(int32_t layout, size_t inner, size_t r, size_t c)
{
    switch (layout) {
    case TRIT_LAYOUT_T2_ROWS: return (place){r * inner + c / 256 * 64 + c % 64, (unsigned)(c % 256 / 64 * 2)};
    case TRIT_LAYOUT_T2_COLS:
        return (place){(c * inner + r / TRIT_PANEL) * 16 + r % 16, (unsigned)(r % TRIT_PANEL / 16 * 2)};
    default:
        return (place){(r / TRIT_PANEL * inner + c / TRIT_GROUP) * 64 + r % 16 * 4 + c % TRIT_GROUP,
                       (unsigned)(r % TRIT_PANEL / 16 * 2)};
    }
}

static size_t inner_of(int32_t layout, int64_t n, int64_t k)
{
    switch (layout) {
    case TRIT_LAYOUT_T2_ROWS: return (size_t)round_up(k, 256) / 4;
    case TRIT_LAYOUT_T2_COLS: return (size_t)round_up(n, TRIT_PANEL) / TRIT_PANEL;
    default: return (size_t)round_up(k, 64) / TRIT_GROUP;
    }
}

static inline void put(int32_t layout, size_t inner, const int8_t *codes, size_t rows, size_t columns, uint8_t *out)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            place at = place_of(layout, inner, r, c);
            unsigned field = (unsigned)(codes[r * columns + c] + 1) << at.shift;
            out[at.byte] = (uint8_t)((out[at.byte] & ~(3u << at.shift)) | field);
        }
}

static inline void get(int32_t layout, size_t inner, const uint8_t *packed, size_t rows, size_t columns, int8_t *codes)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++) {
            place at = place_of(layout, inner, r, c);
            codes[r * columns + c] = (int8_t)((int)((unsigned)packed[at.byte] >> at.shift & 3u) - 1);
        }
}

trit_status trit_pack_ternary(int32_t layout, const int8_t *codes, int64_t n, int64_t k, uint8_t *out,
                              uint64_t out_bytes, trit_error *err)
{
    trit_status status = check_packed(layout, codes, out, out_bytes, n, k, err);
    if (status != TRIT_OK)
        return status;
    size_t rows = (size_t)n, columns = (size_t)k, inner = inner_of(layout, n, k);
    for (size_t i = 0; i < rows * columns; i++)
        if (codes[i] < -1 || codes[i] > 1)
            return pack_fail(err, TRIT_ERR_ARGUMENT, "code at (%zu, %zu) is %d, expected -1, 0 or 1", i / columns,
                             i % columns, codes[i]);

    memset(out, PAD_BYTE, (size_t)out_bytes);
    switch (layout) {
    case TRIT_LAYOUT_T2_ROWS: put(TRIT_LAYOUT_T2_ROWS, inner, codes, rows, columns, out); break;
    case TRIT_LAYOUT_T2_COLS: put(TRIT_LAYOUT_T2_COLS, inner, codes, rows, columns, out); break;
    default: put(TRIT_LAYOUT_T2_P64G4, inner, codes, rows, columns, out); break;
    }
    return TRIT_OK;
}

trit_status trit_unpack_ternary(int32_t layout, const uint8_t *packed, uint64_t bytes, int64_t n, int64_t k,
                                int8_t *codes, trit_error *err)
{
    trit_status status = check_packed(layout, codes, packed, bytes, n, k, err);
    if (status != TRIT_OK)
        return status;
    for (size_t i = 0; i < (size_t)bytes; i++)
        if ((packed[i] & (packed[i] >> 1) & 0x55u) != 0)
            return pack_fail(err, TRIT_ERR_FORMAT, "packed byte %zu is 0x%02x: it holds the code 3, which never occurs",
                             i, packed[i]);

    size_t rows = (size_t)n, columns = (size_t)k, inner = inner_of(layout, n, k);
    switch (layout) {
    case TRIT_LAYOUT_T2_ROWS: get(TRIT_LAYOUT_T2_ROWS, inner, packed, rows, columns, codes); break;
    case TRIT_LAYOUT_T2_COLS: get(TRIT_LAYOUT_T2_COLS, inner, packed, rows, columns, codes); break;
    default: get(TRIT_LAYOUT_T2_P64G4, inner, packed, rows, columns, codes); break;
    }
    return TRIT_OK;
}

/*
 * Hugging Face: with q = ceil(n / 4) byte rows, row r lies in byte row r % q, bits 2 * (r / q) and up. The rows of a byte are a
 * quarter of the matrix apart, the columns unchanged:
 *
 *      bits       0-1     2-3      4-5       6-7
 *      row         i     i + q   i + 2q    i + 3q          (of byte row i; rows from n on do not exist)
 */
trit_status trit_unpack_hf(const uint8_t *bytes, int64_t n, int64_t k, int8_t *codes, trit_error *err)
{
    if (bytes == NULL || codes == NULL)
        return pack_fail(err, TRIT_ERR_ARGUMENT, "%s is NULL", bytes == NULL ? "bytes" : "codes");
    if (element_count(n, k, err) == 0)
        return TRIT_ERR_ARGUMENT;
    size_t rows = (size_t)n, columns = (size_t)k, byte_rows = (rows + 3) / 4;
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *from = bytes + r % byte_rows * columns;
        unsigned shift = (unsigned)(r / byte_rows * 2);
        for (size_t c = 0; c < columns; c++)
            if ((from[c] >> shift & 3u) == 3)
                return pack_fail(err, TRIT_ERR_FORMAT, "code at (%zu, %zu) is 3, expected 0, 1 or 2", r, c);
    }
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *from = bytes + r % byte_rows * columns;
        unsigned shift = (unsigned)(r / byte_rows * 2);
        for (size_t c = 0; c < columns; c++)
            codes[r * columns + c] = (int8_t)((int)(from[c] >> shift & 3u) - 1);
    }
    return TRIT_OK;
}
