/* Training: gradients, token shards, and the training loop. The rules of sparkhawk.h hold here too. */
#ifndef SPARKHAWK_TRAIN_H
#define SPARKHAWK_TRAIN_H

#include "sparkhawk.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The mean cross-entropy of tokens[1..n) given those before each, and its gradients, computed in f32. They are written to `out`
 * (safetensors, f32) under the names that the checkpoint gives its tensors; `loss` may be NULL. n is at least 2. Gemma 3n is
 * SHK_E_UNSUPPORTED. */
SHK_API shk_status shk_gradients(const char *model, const int32_t *tokens, size_t n, const char *out, double *loss, int threads,
                                 shk_error *err);

#ifdef __cplusplus
}
#endif
#endif
