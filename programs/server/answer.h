/* What goes back to a client, as JSON in OpenAI's shapes. Functions that return JSON return NULL where there is no memory. */
#ifndef SERVER_ANSWER_H
#define SERVER_ANSWER_H

#include <jansson.h>

#include "server/sequence.h"

/* What has come of one sequence of an answer. */
typedef struct choice {
    shk_buffer text;  /* all of it, unless it is streamed */
    json_t *logprobs; /* the same; chat: a list, completions: an object of lists */
    json_t *embedding, *stats;
    size_t n_prompt, n_cached, n_generated;
    size_t characters; /* of the text so far: completions give offsets */
    bool begun;
    finish finish;
} choice;

typedef struct answer {
    const shk_tokenizer *tokenizer;
    endpoint endpoint;
    char id[48];
    const char *model;
    int64_t created;
    bool stream, include_usage, base64;
    choice *choices; /* [n] */
    size_t n_text;   /* bytes kept in them */
    size_t n, choices_each; /* sequences of a prompt follow each other */
} answer;

bool answer_init(answer *a, const request *r, size_t n_prompts, const shk_tokenizer *t, const char *model);
void answer_free(answer *a);

/* Streamed: the chunk that tells the news. */
json_t *answer_chunk(answer *a, const news *n);
/* The last one, if usage is asked for. */
json_t *answer_usage_chunk(const answer *a);
enum { MAX_WHOLE_TEXT = 1 << 23 };
/* Not streamed: takes the news in. false: no memory, or more than MAX_WHOLE_TEXT bytes of text in all. */
bool answer_add(answer *a, const news *n);
json_t *answer_whole(const answer *a);

json_t *error_json(const api_error *e);

#endif
