/* fuzz_main.c - drives a fuzz target where there is no libFuzzer: `fuzz_x [rounds [seed]]`, random inputs, the seed printed. */
#include <stdlib.h>

#include "check.h"
#include "fuzz.h"

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 20000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1, state = seed;
    printf("%ld rounds from seed %llu\n", rounds, (unsigned long long)seed);
    for (long round = 0; round < rounds; round++) {
        uint8_t bytes[256];
        size_t n = (size_t)check_below(&state, check_below(&state, 4) ? 24 : sizeof bytes);
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)check_random(&state);
        CHECK(LLVMFuzzerTestOneInput(bytes, n) == 0);
    }
    return CHECK_SUMMARY;
}
