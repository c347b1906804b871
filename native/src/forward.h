/* forward.h - one model step over a checked batch. */
#ifndef TRIT_FORWARD_H
#define TRIT_FORWARD_H

#include "session.h"

/* The batch has passed trit_batch_check; n_rows >= 1. logits (n_outputs, vocab) or NULL. */
trit_status trit_forward(trit_session *session, const trit_batch *batch, trit_choice *choices, float *logits,
                         trit_error *err);

/* Quantise float rows (n_rows, stride) for a linear, as the step does after a norm. */
void trit_quantise_rows(trit_session *session, const trit_linear *linear, const float *rows, size_t stride,
                        size_t n_rows);

#endif
