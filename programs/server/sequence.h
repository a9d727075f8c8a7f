/* One text that is being made, or one that is being embedded: its session, its sampler, and what has come out so far. */
#ifndef SERVER_SEQUENCE_H
#define SERVER_SEQUENCE_H

#include "server/request.h"
#include "stream.h"

typedef struct alternative {
    int32_t id;
    float logprob;
} alternative;

/* A token that was chosen, and the likeliest ones in its place, best first. Natural logarithms of the model's own probabilities:
 * before temperature, bias and penalties. */
typedef struct token_news {
    int32_t id;
    float logprob;
    size_t n_top;
    alternative top[MAX_TOP_LOGPROBS];
} token_news;

typedef struct sequence_stats {
    double tok_s;        /* since its first token */
    const float *active; /* [layers] share of active FFN neurons, -1: all */
    size_t layers;
    uint64_t state_bytes, cache_bytes; /* its state; the same if every layer kept every position */
} sequence_stats;

typedef enum finish { RUNNING, FINISH_STOP, FINISH_LENGTH, FINISH_FAILED } finish;

/* What has happened to a sequence. Everything it points at is gone after the call that brings it. */
typedef struct news {
    size_t sequence; /* its number in the task */
    const char *text; /* [n_text] whole characters */
    size_t n_text;
    const token_news *token;     /* NULL: none, or log-probabilities are not asked for */
    const float *embedding;      /* [width], of length 1; NULL: none */
    size_t width;
    const sequence_stats *stats; /* NULL: not asked for */
    finish finish;
    const api_error *error; /* of FINISH_FAILED */
    size_t n_prompt, n_cached, n_generated;
} news;

typedef enum mood { LISTENING, FULL, GONE } mood;

/* Who wants to know. All are called by the scheduler's thread and must not wait. */
typedef struct listener {
    void *user;
    void (*tell)(void *user, const news *n);
    mood (*check)(void *user); /* FULL: the client reads slowly, so its sequences rest; GONE: nobody waits any more */
    void (*done)(void *user);  /* the last call, after every sequence has finished */
} listener;

typedef struct token_list {
    int32_t *ids; /* [n] */
    size_t n;
} token_list;

/* A request on its way: for each prompt `request.n` sequences, or its embedding. */
typedef struct task {
    request request;
    token_list *prompts; /* [n_prompts], none empty */
    size_t n_prompts;
    shk_grammar *grammar; /* that texts must fit; NULL: any */
    uint64_t seed;
    double deadline; /* of seconds(); 0: none */
    listener listener;
    /* the scheduler's */
    struct task *next;
    size_t started, finished;
    mood mood;
    double resting; /* since when it is FULL */
    double submitted;
} task;

size_t task_sequences(const task *t);
size_t task_tokens(const task *t); /* of its prompts */
void task_free(task *t);
double seconds(void); /* of a clock that only goes forward */

typedef struct sequence {
    task *task;
    size_t number;
    bool embeds;
    int32_t *ids; /* [n_ids] the prompt, then what was generated; of which the session has consumed the first */
    size_t n_ids, room, n_prompt, n_cached;
    size_t keep[2]; /* positions, ascending, at which the prefix cache wants the state on the way through the prompt; 0: none */
    shk_session *session;
    const struct sequence *leader; /* of the same prompt; this one starts from its state; NULL: it goes alone */
    shk_sampling sampling;
    shk_sampler *sampler;
    shk_matcher *matcher; /* NULL: any text will do */
    float *logits; /* [vocab] */
    int32_t sampled; /* the next token, where the pass has chosen it; -1: it is chosen from the logits */
    float *active; /* [layers] if stats are asked for */
    double *sum;   /* [width] of the hidden states, if it embeds */
    shk_stream text;
    double first; /* when its first token came */
    finish finish;
} sequence;

/* Makes everything but the session. NULL: no memory. */
sequence *sequence_new(task *t, size_t number, shk_model *m);
void sequence_free(sequence *q);
size_t sequence_position(const sequence *q);
/* Takes q->sampled, or chooses the next token from q->logits; tells the listener, and notices the end: q->finish. */
void sequence_next(sequence *q);
/* Adds n rows of hidden states. */
void sequence_embed(sequence *q, const float *hidden, size_t n);
/* Ends it; a text that was held back is told, and the embedding. */
void sequence_finish(sequence *q, finish how, const api_error *error);

#endif
