/* Checkpoints: a directory for each, step-NNNNNNNN, that is a model (config.json, model.safetensors, the tokenizer) and holds
 * beside it what training goes on from (state.safetensors, train.json). It appears whole or not at all. */
#ifndef SHK_TRAIN_CHECKPOINT_H
#define SHK_TRAIN_CHECKPOINT_H

#include "comm/comm.h"
#include "train/data.h"
#include "train/net.h"
#include "train/settings.h"

/* What a step changes, the parameters aside. */
typedef struct shk_train_state {
    uint64_t step;    /* done */
    shk_place place;  /* of the training data */
    double average;   /* of the loss, for telling a jump */
    size_t at, n;     /* the shard of the parameters' array that this rank updates: values [at, at + n) */
    float *m, *v;     /* [n] of AdamW, device memory */
} shk_train_state;

/* The newest checkpoint in `out`: its path (malloc'd), or NULL where there is none. */
shk_status shk_checkpoint_find(const char *out, char **path, shk_error *err);
/* Rank 0 writes one and removes the oldest past `keep`; every rank calls, and the gradients are lost. `tokenizer`: the file or
 * model directory whose tokenizer goes along; may be NULL. *path: malloc'd, on every rank. */
shk_status shk_checkpoint_write(const shk_net *n, const shk_train_state *s, const shk_settings *set, const char *tokenizer,
                                shk_comm *comm, char **path, shk_error *err);
/* Reads the state of the checkpoint that the net's model was loaded from: of the moments the shard [at, at + n). */
shk_status shk_checkpoint_read(shk_net *n, shk_train_state *s, const char *path, shk_error *err);

#endif
