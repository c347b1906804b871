/* check_pack.c - packing against the layout sentences of trit.h, its inverse, wrong calls, and the worked bytes of the formats. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kerncheck.h"

static void check_sizes(const kc_kernel *kernel)
{
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_F32, 3, 5) == 60, "float32");
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_I8, 3, 5) == 15, "int8");
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_T2_P64G4, 1, 1) == 1024, "one weight takes a padded panel");
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_T2_P64G4, 6912, 2560) == 6912 * 2560 / 4, "2B4T gate");
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_T2_ROWS, 3, 257) == 3 * 128, "rows are padded");
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_T2_COLS, 65, 3) == 64 * 32, "columns are padded");
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_I16_P16G4, 17, 65) == 2 * 32 * 128, "head is padded");
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_T5_P64G4, 6912, 2560) == 6912 * 2560 / 5, "2B4T gate, dense");
    kc_expect(kernel, trit_layout_bytes(TRIT_LAYOUT_T5_P64G4, 2560, 6912) == 40 * (345 * 4 + 3) * 64,
              "2B4T down, dense: 1,728 groups are 345 blocks and 3 vectors");
    static const int64_t bad[] = {0, -1, INT64_MIN};
    for (int32_t layout = -1; layout <= 8; layout++) {
        for (size_t i = 0; i < 3; i++)
            kc_expect(kernel, !trit_layout_bytes(layout, bad[i], 4) && !trit_layout_bytes(layout, 4, bad[i]),
                      "layout %d, size %lld", layout, (long long)bad[i]);
        kc_expect(kernel, trit_layout_bytes(layout, INT64_MAX, INT64_MAX) == 0, "layout %d overflows", layout);
        kc_expect(kernel, trit_layout_bytes(layout, INT64_C(1) << 33, INT64_C(1) << 33) == 0, "layout %d, 2^66",
                  layout);
        if (layout < 1 || layout > 7)
            kc_expect(kernel, trit_layout_bytes(layout, 64, 64) == 0, "layout %d is unknown", layout);
    }
}

/* The code of output r and input i as the sentences of trit.h have it. */
static unsigned code_at(int32_t layout, const uint8_t *packed, size_t n, size_t k, size_t r, size_t i)
{
    if (layout == TRIT_LAYOUT_T2_ROWS)
        return (unsigned)packed[(r * ((k + 255) / 256) + i / 256) * 64 + i % 64] >> (i % 256 / 64 * 2) & 3u;
    if (layout == TRIT_LAYOUT_T2_COLS)
        return (unsigned)packed[(i * ((n + 63) / 64) + r / 64) * 16 + r % 16] >> (r % 64 / 16 * 2) & 3u;
    return (unsigned)packed[(r / 64 * ((k + 63) / 64 * 16) + i / 4) * 64 + r % 16 * 4 + i % 4] >> (r % 64 / 16 * 2) &
           3u;
}

static void check_ternary_round_trip(const kc_kernel *kernel, int32_t layout, size_t n, size_t k)
{
    uint64_t bytes = trit_layout_bytes(layout, (int64_t)n, (int64_t)k);
    int8_t *codes = kc_buffer(n * k), *back = kc_buffer(n * k);
    uint8_t *packed = kc_buffer((size_t)bytes);
    trit_error err = {0};
    for (size_t i = 0; i < n * k; i++)
        codes[i] = (int8_t)kc_between(-1, 1);
    kc_expect(kernel, trit_pack_ternary(layout, codes, (int64_t)n, (int64_t)k, packed, bytes, &err) == TRIT_OK,
              "layout %d, pack %zu x %zu: %s", layout, n, k, err.text);
    size_t rows = layout == TRIT_LAYOUT_T2_ROWS ? n : (n + 63) / 64 * 64, wrong = 0;
    size_t columns = layout == TRIT_LAYOUT_T2_ROWS ? (k + 255) / 256 * 256 : (k + 63) / 64 * 64;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < columns; i++) {
            unsigned expected = r < n && i < k ? (unsigned)(codes[r * k + i] + 1) : 1u;
            wrong += code_at(layout, packed, n, k, r, i) != expected;
        }
    kc_expect(kernel, wrong == 0 && rows * columns == 4 * bytes,
              "layout %d, %zu x %zu: %zu codes are not where trit.h says", layout, n, k, wrong);
    kc_expect(kernel,
              trit_unpack_ternary(layout, packed, bytes, (int64_t)n, (int64_t)k, back, &err) == TRIT_OK &&
                  kc_same_bytes(codes, back, n * k),
              "layout %d, %zu x %zu: unpack is not the inverse", layout, n, k);
    packed[(size_t)kc_between(0, (int64_t)bytes - 1)] |= (uint8_t)(3u << (2 * kc_between(0, 3)));
    kc_expect(kernel, trit_unpack_ternary(layout, packed, bytes, (int64_t)n, (int64_t)k, back, &err) == TRIT_ERR_FORMAT,
              "a code 3 is damage");
    codes[(size_t)kc_between(0, (int64_t)(n * k) - 1)] = kc_random() & 1 ? 2 : -2;
    kc_expect(kernel,
              trit_pack_ternary(layout, codes, (int64_t)n, (int64_t)k, packed, bytes, &err) == TRIT_ERR_ARGUMENT,
              "a code 2 is refused");
    kc_expect(kernel, kc_release(), "%zu x %zu: a canary was overwritten", n, k);
}

/* model-spec.md 3.1: the 8 x 4 matrix of section 2.6. */
static void check_hugging_face(const kc_kernel *kernel)
{
    static const uint8_t bytes[8] = {0x82, 0x58, 0x15, 0x26, 0x59, 0x89, 0x2a, 0x90};
    static const int8_t expected[32] = {1,  -1, 0, 1, 0, 0,  1, -1, -1, 1, 0,  0,  1, 1, 1,  -1,
                                        -1, 0,  0, 1, 0, -1, 1, 0,  1,  0, -1, -1, 0, 1, -1, 1};
    int8_t codes[32];
    kc_expect(kernel, trit_unpack_hf(bytes, 8, 4, codes, NULL) == TRIT_OK && kc_same_bytes(codes, expected, 32),
              "worked example of the packed format");
    uint8_t damaged[8];
    memcpy(damaged, bytes, 8);
    damaged[5] |= 0x0c;
    kc_expect(kernel, trit_unpack_hf(damaged, 8, 4, codes, NULL) == TRIT_ERR_FORMAT, "a code 3 is damage");
    static const uint8_t five[4] = {0x06, 0x01, 0x42, 0xff}; /* rows 0, 2, 4 and 1, 3: row 5 does not exist */
    trit_error err = {0};
    kc_expect(kernel,
              trit_unpack_hf(five, 5, 1, codes, &err) == TRIT_OK && codes[0] == 1 && codes[2] == 0 && codes[4] == -1 &&
                  codes[1] == 0 && codes[3] == -1,
              "five rows: %s", err.text);
}

static void check_head_packing(const kc_kernel *kernel, size_t n, size_t k)
{
    uint64_t bytes = trit_layout_bytes(TRIT_LAYOUT_I16_P16G4, (int64_t)n, (int64_t)k);
    float *rows = kc_buffer(n * k * sizeof *rows);
    uint8_t *packed = kc_buffer((size_t)bytes);
    int8_t *shift = kc_buffer(n);
    for (size_t r = 0; r < n; r++) {
        float scale = r % 7 == 0 ? 0.0f : ldexpf(1.0f, (int)kc_between(-100, 100));
        for (size_t i = 0; i < k; i++)
            rows[r * k + i] = kc_normal(scale);
        if (r % 5 == 1)
            rows[r * k] = scale * 8 * 0.99226f; /* mantissa just past 32512.5 / 32768 */
    }
    kc_poison(packed, (size_t)bytes);
    size_t step = n > 32 ? 32 : n;
    trit_error err = {0};
    for (size_t r = 0; r < n; r += step) {
        size_t count = n - r < step ? n - r : step;
        kc_expect(kernel,
                  trit_pack_head(rows + r * k, (int64_t)r, (int64_t)count, (int64_t)n, (int64_t)k, packed, bytes,
                                 shift + r, &err) == TRIT_OK,
                  "pack_head %zu x %zu at %zu: %s", n, k, r, err.text);
    }
    size_t groups = (k + 63) / 64 * 16, plane = (size_t)bytes / 2, wrong = 0, off = 0;
    for (size_t r = 0; r < (n + 15) / 16 * 16; r++) {
        int largest = 0;
        for (size_t i = 0; i < groups * 4; i++) {
            size_t at = (r / 16 * groups + i / 4) * 64 + r % 16 * 4 + i % 4;
            int e = 256 * (int8_t)packed[at] + (int8_t)packed[plane + at];
            double w = r < n && i < k ? (double)rows[r * k + i] : 0.0;
            wrong += e != (int)rint(w * exp2(r < n ? shift[r] : 0));
            largest = abs(e) > largest ? abs(e) : largest;
        }
        off += largest > 32512 || (largest != 0 && largest < 16256);
    }
    kc_expect(kernel, wrong == 0, "%zu x %zu: %zu of the int16 are not rint(w * 2^shift)", n, k, wrong);
    kc_expect(kernel, off == 0, "%zu x %zu: %zu rows do not use their range", n, k, off);
    rows[(size_t)kc_between(0, (int64_t)k - 1)] = kc_random() & 1 ? NAN : -INFINITY;
    kc_expect(kernel,
              trit_pack_head(rows, 0, (int64_t)step, (int64_t)n, (int64_t)k, packed, bytes, shift, &err) ==
                  TRIT_ERR_ARGUMENT,
              "a weight that is not finite is refused");
    kc_expect(kernel, kc_release(), "%zu x %zu: a canary was overwritten", n, k);
}

static void check_wrong_calls(const kc_kernel *kernel)
{
    int8_t codes[4] = {0};
    uint8_t packed[4096] = {0};
    float row[4] = {1.0f, FLT_MIN, FLT_TRUE_MIN, 0.0f};
    trit_error err;
    uint64_t head_bytes = trit_layout_bytes(TRIT_LAYOUT_I16_P16G4, 32, 4);
    kc_expect(kernel, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, NULL, 1, 4, packed, 1024, &err) == TRIT_ERR_ARGUMENT,
              "NULL codes");
    kc_expect(kernel, trit_pack_ternary(TRIT_LAYOUT_I8, codes, 1, 4, packed, 4, &err) == TRIT_ERR_ARGUMENT,
              "a layout that is not ternary");
    kc_expect(kernel, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, 1, 4, NULL, 1024, NULL) == TRIT_ERR_ARGUMENT,
              "NULL out, no error text");
    kc_expect(kernel, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, 1, 4, packed, 1023, &err) == TRIT_ERR_ARGUMENT,
              "short buffer");
    kc_expect(kernel, trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, 0, 4, packed, 1024, &err) == TRIT_ERR_ARGUMENT,
              "no rows");
    kc_expect(kernel,
              trit_pack_ternary(TRIT_LAYOUT_T2_P64G4, codes, INT64_MAX, INT64_MAX, packed, 0, &err) ==
                  TRIT_ERR_ARGUMENT,
              "huge");
    kc_expect(kernel, trit_unpack_ternary(TRIT_LAYOUT_T2_P64G4, packed, 1024, -1, 4, codes, &err) == TRIT_ERR_ARGUMENT,
              "negative rows");
    kc_expect(kernel, trit_unpack_hf(packed, INT64_MAX, 2, codes, &err) == TRIT_ERR_ARGUMENT, "overflow");
    kc_expect(kernel, trit_pack_head(row, 8, 1, 32, 4, packed, head_bytes, codes, &err) == TRIT_ERR_ARGUMENT,
              "row0 in a panel");
    kc_expect(kernel, trit_pack_head(row, 32, 1, 32, 4, packed, head_bytes, codes, &err) == TRIT_ERR_ARGUMENT,
              "row0 past the end");
    kc_expect(kernel, trit_pack_head(row, 16, INT64_MAX, 32, 4, packed, head_bytes, codes, &err) == TRIT_ERR_ARGUMENT,
              "too many rows");
    kc_expect(kernel, trit_pack_head(row, 0, 1, 32, 4, packed, head_bytes, codes, &err) == TRIT_ERR_ARGUMENT,
              "part of a panel");
    kc_expect(kernel, trit_pack_head(row, 0, 1, 1, 4, packed, 1, codes, &err) == TRIT_ERR_ARGUMENT, "short buffer");
}

void check_pack(const kc_kernel *kernel, int bench)
{
    if (bench)
        return;
    check_sizes(kernel);
    check_wrong_calls(kernel);
    check_hugging_face(kernel);
    static const size_t ns[] = {1, 15, 16, 17, 63, 64, 65, 130}, ks[] = {1, 3, 4, 63, 64, 65, 200};
    for (size_t i = 0; i < sizeof ns / sizeof ns[0]; i++)
        for (size_t j = 0; j < sizeof ks / sizeof ks[0]; j++) {
            check_ternary_round_trip(kernel, TRIT_LAYOUT_T2_P64G4, ns[i], ks[j]);
            check_ternary_round_trip(kernel, TRIT_LAYOUT_T2_ROWS, ns[i], ks[j]);
            check_ternary_round_trip(kernel, TRIT_LAYOUT_T2_COLS, ns[i], ks[j]);
            check_head_packing(kernel, ns[i], ks[j]);
        }
}
