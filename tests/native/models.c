/*
 * models.c - the kernels of the list that were also built over a plain-C model of their instructions.
 *
 * Compiled with TRIT_HAVE_<NAME> of those instruction sets alone, whatever this build has natively.
 */
#include "kerncheck.h"

#define X(op, type, isa, function) extern type function##_model;
#include "kernels.inc"

const kc_kernel kc_models[] = {
#define X(op, type, isa, function) \
    {#op, NULL, #function "_model", TRIT_ISA_##isa, KC_MODEL, 0, (kc_fn *)function##_model, NULL},
#include "kernels.inc"
};
const size_t kc_n_models = sizeof kc_models / sizeof kc_models[0];

int kc_model_runs(trit_isa isa)
{
    int in_256_bits = isa == TRIT_ISA_AVXVNNI || isa == TRIT_ISA_AVX512VNNI256;
    return in_256_bits ? trit_isa_supported(TRIT_ISA_AVX2) : 1; /* the model is of vpdpbusd and vpdpwssd alone */
}
