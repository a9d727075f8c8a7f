/* A model, a session and the sampling: what `run` and `chat` generate with. */
#ifndef PROGRAMS_ENGINE_H
#define PROGRAMS_ENGINE_H

#include "models.h"

typedef struct sampling_args {
    int64_t max_tokens, context, top_k, repeat_last_n, seed;
    double temp, top_p, min_p, repeat_penalty;
    strings logit_bias;
} sampling_args;

/* Rows for the option table of arguments that have a member `sampling`. */
#define SAMPLING_ROWS \
    { "max-tokens", 'n', OPT_INT, AT(sampling.max_tokens), 0, 1 << 30, "N", "stop after this many tokens" }, \
    { "context", 'c', OPT_INT, AT(sampling.context), 0, (double)((int64_t)1 << 40), "N", \
      "tokens that the session can hold; 0: what the model was made for" }, \
    { "temp", 0, OPT_REAL, AT(sampling.temp), 0, 100, "T", "temperature; 0: always the likeliest token" }, \
    { "top-k", 0, OPT_INT, AT(sampling.top_k), 0, INT32_MAX, "K", "choose among the K likeliest tokens; 0: all" }, \
    { "top-p", 0, OPT_REAL, AT(sampling.top_p), 0, 1, "P", "choose among the likeliest tokens that make up P" }, \
    { "min-p", 0, OPT_REAL, AT(sampling.min_p), 0, 1, "P", "drop tokens less likely than P times the likeliest" }, \
    { "repeat-penalty", 0, OPT_REAL, AT(sampling.repeat_penalty), 0.01, 100, "X", "make recent tokens less likely; 1: off" }, \
    { "repeat-last-n", 0, OPT_INT, AT(sampling.repeat_last_n), 0, 1 << 20, "N", "how many recent tokens the penalty looks at" }, \
    { "logit-bias", 0, OPT_LIST, AT(sampling.logit_bias), 0, 0, "ID=VALUE", "add to a token's logit; -inf forbids the token" }, \
    { "seed", 's', OPT_INT, AT(sampling.seed), 0, (double)((int64_t)1 << 53), "N", \
      "of the random choices: the same seed gives the same text; 0: a new one each time" }

typedef struct engine {
    shk_model *model;
    const shk_tokenizer *tokenizer; /* NULL if the model has none */
    shk_session *session;
    shk_sampling sampling;
    shk_bias *bias;
    size_t max_tokens;
} engine;

/* Checks the options that the table cannot (before anything is loaded), loads the model and makes a session, at the state that the
 * file `state` holds if it is not NULL. Returns an exit status; engine_close in every case. */
int engine_open(engine *e, const command *c, const model_args *model, const sampling_args *sampling, const char *state);
void engine_close(engine *e);

/* Token ids of text, malloc'd; a bos token first where the session is at its start. NULL: said so. */
int32_t *engine_tokenize(const engine *e, const char *text, size_t n, bool special, size_t *n_ids);
/* Token ids of a user's turn and the opening of the model's answer: the whole template where the session is at its start (`system`
 * may be NULL), else what closes the turn before and opens this one. NULL: said so. */
int32_t *engine_turn(const engine *e, const char *system, const char *user, size_t *n_ids);

/* Consumes g->prompt and generates; the engine fills in sampling and limits. Afterwards the session has consumed everything
 * that was generated, except for the token that ended it. Returns an exit status; on 0 the caller clears *out. */
int engine_generate(engine *e, shk_generation *g, shk_generated *out);

#endif
