/* choose.h - the choice among candidates, docs/numerics.md "Sampling" steps 3 and 4. */
#ifndef TRIT_CHOOSE_H
#define TRIT_CHOOSE_H

#include "candidates.h"

/* Returns 0 if the bounds do not tell (never if every z is exact); else *token is an id or TRIT_TOKEN_NONE. */
int trit_choose(candidates *c, int32_t *token);

#endif
