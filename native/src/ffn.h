/*
 * ffn.h - gate, up and down of a feed-forward block, without what squared ReLU makes needless: the rows of `up` whose gates are all zero or
 * below, and the columns of `down` whose int8 inputs are 0. Both leave every bit as it is.
 *
 * Only tensors in the layouts made for it are skipped in (T2_ROWS, T2_COLS); others go through linear.h.
 */
#ifndef TRIT_FFN_H
#define TRIT_FFN_H

#include "session.h"

/* Rows of a step up to which `down` is computed input by input (trit_down_inputs_fn); more go by pairs of inputs. */
enum { TRIT_DOWN_FEW_ROWS = 4 };

/* session->gate and up of rows 0..n_rows-1, whose int8 inputs are in the session. */
void trit_ffn_gate_up(trit_session *session, const trit_layer *layer, size_t n_rows);

/* List the inputs of `down` that matter, of one quantised row of a step of n_rows. To be called of every row before trit_ffn_down. The list
 * takes the place of the row's gates. */
void trit_ffn_list_inputs(trit_session *session, const trit_linear *down, size_t row, size_t n_rows);
/* session->y of rows 0..n_rows-1 */
void trit_ffn_down(trit_session *session, const trit_linear *down, size_t n_rows);

#endif
