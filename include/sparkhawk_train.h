/* Training: gradients, token shards, and the training loop. The rules of sparkhawk.h hold here too. */
#ifndef SPARKHAWK_TRAIN_H
#define SPARKHAWK_TRAIN_H

#include "sparkhawk.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The mean cross-entropy of tokens[1..n) given those before each, and its gradients, computed in f32. They are written to `out`
 * (safetensors, f32) under the names that the checkpoint gives its tensors; `loss` may be NULL. Of `params` (NULL: all 0) `device`,
 * `threads` and `window_extra` count. n is at least 2. Gemma 3n is SHK_E_UNSUPPORTED. */
SHK_API shk_status shk_gradients(const char *model, const shk_model_params *params, const int32_t *tokens, size_t n,
                                 const char *out, double *loss, shk_error *err);

/* ---- token shards ---- */

typedef struct shk_shards_options {
    uint64_t shard_tokens; /* a shard is closed when it has this many; 0: 2^26 */
    uint64_t held_out;     /* N: of each file the documents N-1, 2N-1... are held out, or its last if it has fewer; 0: none */
    int threads;           /* 0: one for each CPU */
} shk_shards_options;

typedef struct shk_shards_counts {
    uint64_t documents, tokens;                   /* for training */
    uint64_t held_out_documents, held_out_tokens;
} shk_shards_counts;

/* Turns text files into shards: files train-NNNNN.safetensors and held-out-NNNNN.safetensors in the directory `dir` (made if need
 * be), as docs/TRAINING.md describes them. A line `<|endoftext|>` ends a document, and so does a file; empty documents are left
 * out. A document becomes bos, its tokens, eos, as far as the vocabulary has those. The same files give the same shards.
 * on_progress (may be NULL) is told how many bytes of text of how many are done; a non-zero return stops, with SHK_E_ARGUMENT. */
SHK_API shk_status shk_shards_write(const shk_tokenizer *t, const char *const *files, size_t n, const char *dir,
                                    const shk_shards_options *options, shk_shards_counts *counts,
                                    int (*on_progress)(void *user, uint64_t bytes, uint64_t of), void *user, shk_error *err);

/* ---- the training loop ---- */

typedef struct shk_train_progress {
    uint64_t step, steps;   /* done, in all */
    double loss;            /* mean over the tokens of the step */
    double held_out;        /* NaN if it was not evaluated at this step */
    double rate, norm;      /* learning rate; of the gradient, before clipping */
    double tokens_per_s, remaining_s;
    const char *saved;      /* the checkpoint that this step has written, or NULL */
    int rank, ranks;        /* which of how many processes this is: 0 of 1 if it is alone */
} shk_train_progress;

/* Trains as the JSON file `config` says (docs/TRAINING.md lists the keys), with settings "key=value" put over it. If the output
 * directory holds a checkpoint, training goes on from there, to the bit as if it had never stopped. on_step (may be NULL) is called
 * after each step; a non-zero return saves a checkpoint, of which it is told in a last call, and ends this one with SHK_OK. A loss
 * that is not finite or that jumps is SHK_E_NUMERIC, with a message that says where; nothing is saved then.
 *
 * In a process that an MPI launcher has started as one of several (and in a build with MPI), all of them call this with the same
 * arguments, train together, and call on_step each: what one says counts for all. Only rank 0 writes files. A failure ends all with
 * one status; its message is rank 0's, the others' are empty. Once in a process. */
SHK_API shk_status shk_train(const char *config, const char *const *settings, size_t n_settings,
                             int (*on_step)(void *user, const shk_train_progress *p), void *user, shk_error *err);

#ifdef __cplusplus
}
#endif
#endif
