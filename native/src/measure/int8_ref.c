/* int8_ref.c - what the compiler makes of plain C for the baseline. */
#include "measure/int8.h"

enum { WIDTH = 256 };

trit_int8_loop_fn trit_int8_loop__ref;

uint64_t trit_int8_loop__ref(uint64_t rounds, int32_t *sink)
{
    int8_t a[WIDTH], b[WIDTH];
    int32_t acc = 0;
    for (int i = 0; i < WIDTH; i++) {
        a[i] = (int8_t)i;
        b[i] = (int8_t)(i * 7);
    }
    for (uint64_t round = 0; round < rounds; round++) {
        a[round % WIDTH] = (int8_t)acc; /* so that rounds differ */
        int32_t sum = 0;
        for (int i = 0; i < WIDTH; i++)
            sum += a[i] * b[i];
        acc += sum & 0xff;
    }
    *sink = acc;
    return rounds * WIDTH * 2;
}
