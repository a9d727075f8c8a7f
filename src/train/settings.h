/* What the training loop is told: one table of keys, from which a JSON file is read, checked and written. */
#ifndef SHK_TRAIN_SETTINGS_H
#define SHK_TRAIN_SETTINGS_H

#include <jansson.h>
#include <stdbool.h>

#include "error.h"

typedef struct shk_settings {
    char *model, *tokenizer, *data, *out; /* owned; tokenizer NULL: the model's */
    double seed, batch, length, accumulate, steps, threads;
    char *device, *compute, *schedule;
    bool recompute;
    double rate, final_rate, warmup, decay_steps, beta1, beta2, eps, weight_decay, clip, z_loss;
    double log_every, eval_every, eval_batches, save_every, keep, spike;
} shk_settings;

/* From a file, with settings "key=value" over it (values as in JSON; what is no JSON is a string). Paths in the file are relative
 * to the working directory. An unknown key, a value of another kind or out of range, and a missing one that has no default are
 * errors that name it. shk_settings_free releases, in every case. */
shk_status shk_settings_read(shk_settings *s, const char *path, const char *const *set, size_t n, shk_error *err);
void shk_settings_free(shk_settings *s);
/* All of them as JSON; NULL: no memory. */
json_t *shk_settings_json(const shk_settings *s);

/* The learning rate of a step, counted from 0. */
double shk_settings_rate(const shk_settings *s, uint64_t step);

#endif
