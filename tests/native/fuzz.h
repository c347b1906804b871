/* fuzz.h - bytes into numbers that are likely to matter. */
#ifndef TRIT_TESTS_FUZZ_H
#define TRIT_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

typedef struct fuzz_input {
    const uint8_t *at;
    size_t left;
} fuzz_input;

static inline uint8_t fuzz_byte(fuzz_input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

/* A boundary, a boundary give or take a few, or any 64 bits. */
static inline int64_t fuzz_number(fuzz_input *in)
{
    static const uint64_t edges[] = {
        0,          1,          16,          64,        160,      203,    0x7fff, 0x10000,           0x7fffffff,
        0x80000000, 0xffffffff, 0x100000000, INT64_MAX, 1u << 24, 131072, 48,     0xffffffffffffffff};
    uint8_t kind = fuzz_byte(in);
    uint64_t value = 0;
    if (kind < 200)
        return (int64_t)(edges[kind % (sizeof edges / sizeof edges[0])] +
                         (uint64_t)(int64_t)(int8_t)(fuzz_byte(in) % 9) - 4);
    for (int i = 0; i < 8; i++)
        value = value << 8 | fuzz_byte(in);
    return (int64_t)value;
}

static inline float fuzz_float(fuzz_input *in)
{
    static const float values[] = {0.0f, 1.0f, -1.0f, 0.5f, 1e-45f, 1e38f, -1e38f, 1e-30f};
    uint8_t kind = fuzz_byte(in);
    if (kind < 200)
        return values[kind % (sizeof values / sizeof values[0])];
    uint32_t bits = (uint32_t)fuzz_number(in);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
