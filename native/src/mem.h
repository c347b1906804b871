/* mem.h - aligned allocation and sizes whose overflow is noticed. Every size that comes from outside goes through here. */
#ifndef TRIT_MEM_H
#define TRIT_MEM_H

#include <stddef.h>
#include <stdint.h>

enum { TRIT_ALIGN = 64 };

/* 64-byte aligned, zeroed memory for count elements, or NULL: also when the product overflows. count 0 gives one element. */
void *trit_alloc(size_t count, size_t element_bytes);
void trit_free(void *memory);

/* *sum += a * b; 0 (and *sum unchanged) if it does not fit. */
static inline int trit_add_product(uint64_t *sum, uint64_t a, uint64_t b)
{
    if (a != 0 && b > UINT64_MAX / a)
        return 0;
    if (a * b > UINT64_MAX - *sum)
        return 0;
    *sum += a * b;
    return 1;
}

/* value rounded up to a multiple of step, for values that are far from the end of size_t. */
static inline size_t trit_round_up(size_t value, size_t step)
{
    return (value + step - 1) / step * step;
}

#endif
