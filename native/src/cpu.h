/* cpu.h - what this CPU and operating system allow. Compiled for the baseline; asks on every call, keeps no state. */
#ifndef TRIT_CPU_H
#define TRIT_CPU_H

#include "trit/trit.h"

/* 1 if code compiled for `isa` may run here. Says nothing about whether this build contains it. */
int trit_cpu_runs(trit_isa isa);

#endif
