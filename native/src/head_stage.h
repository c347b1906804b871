/* head_stage.h - the output head and the sampler. */
#ifndef TRIT_HEAD_STAGE_H
#define TRIT_HEAD_STAGE_H

#include "session.h"

/* Choose a token for every output of a batch whose layers are done; there is at least one. logits (n_outputs, vocab) or NULL. */
trit_status trit_choose_tokens(trit_session *session, const trit_batch *batch, trit_choice *choices, float *logits,
                               trit_error *err);

#endif
