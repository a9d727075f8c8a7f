/* The thread that owns the model. Each pass over the weights takes the next token of every sequence that is being generated, and in
 * what room is left pieces of prompts, in equal shares. What a sequence gives does not depend on who else is in the pass. */
#ifndef SERVER_SCHEDULER_H
#define SERVER_SCHEDULER_H

#include "server/prefix_cache.h"
#include "server/sequence.h"

typedef struct scheduler scheduler;

typedef struct scheduler_options {
    size_t parallel;     /* sequences that are computed at a time, up to MAX_PARALLEL */
    size_t queue;        /* requests that wait */
    size_t queue_tokens; /* of their prompts */
    uint64_t context;    /* of each session; 0: the model's */
    double stall;        /* seconds that a client may leave its text unread */
} scheduler_options;

enum { MAX_PARALLEL = 128 };

/* Totals since the start, and what is now. */
typedef struct scheduler_counts {
    uint64_t requests, refused, cancelled, failed;
    uint64_t prompt_tokens, cached_tokens, generated_tokens, passes, pass_rows;
    uint64_t first_tokens;
    double first_token_s, request_s; /* sums: from a request's arrival to its first token, and to its end */
    size_t running, waiting;
} scheduler_counts;

typedef enum submitted { SUBMITTED, QUEUE_FULL, DRAINING } submitted;

/* Starts the thread. The model and the cache are its own until scheduler_stop, which ends what still runs; afterwards nothing is
 * taken, but the other functions may still be called. NULL is allowed for both. */
shk_status scheduler_new(scheduler **out, shk_model *m, prefix_cache *c, const scheduler_options *o, shk_error *err);
void scheduler_stop(scheduler *s);
void scheduler_free(scheduler *s); /* once stopped */

/* The rest is for any thread. Takes the task over if it says SUBMITTED; if QUEUE_FULL, *retry_s is a guess when there is room. */
submitted scheduler_submit(scheduler *s, task *t, int *retry_s);
/* A client that was FULL or is GONE should be asked again. */
void scheduler_wake(scheduler *s);
/* From now on nothing is taken. true: nothing runs or waits. */
bool scheduler_drain(scheduler *s);
scheduler_counts scheduler_count(scheduler *s);

#endif
