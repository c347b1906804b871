/* mem.c - the library's only allocator. */
#include <stdlib.h>
#include <string.h>

#include "mem.h"

void *trit_alloc(size_t count, size_t element_bytes)
{
    void *memory = NULL;
    if (count == 0)
        count = 1;
    /* Kernels may read to the end of the last 64-byte vector: round up, with room for that in the check. */
    if (element_bytes == 0 || count > (PTRDIFF_MAX - (size_t)TRIT_ALIGN) / element_bytes)
        return NULL;
    size_t bytes = trit_round_up(count * element_bytes, TRIT_ALIGN);
    if (posix_memalign(&memory, TRIT_ALIGN, bytes) != 0)
        return NULL;
    return memset(memory, 0, bytes);
}

void trit_free(void *memory)
{
    free(memory);
}
