/* The body of an API request: bytes from outside become a checked `request`, or an error that names the field. */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include <jansson.h>
#include <stdbool.h>

#include "sparkhawk.h"

typedef enum endpoint { CHAT = 1, COMPLETIONS = 2, EMBEDDINGS = 4, TOKENIZE = 8, DETOKENIZE = 16 } endpoint;

/* An error as it goes over the wire; param and code are empty where there is none. */
typedef struct api_error {
    int status; /* of HTTP */
    const char *type, *code;
    char param[64], message[512];
} api_error;

/* Fills *e with status 400 and returns false. */
bool refuse(api_error *e, const char *param, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool no_memory(api_error *e); /* the same, with status 500 */

/* A text or token ids; both point into the request. */
typedef struct prompt_input {
    const char *text; /* [n] bytes of UTF-8, NULL: ids */
    int32_t *ids;     /* [n] */
    size_t n;
} prompt_input;

enum { MAX_STOPS = 16, MAX_TOP_LOGPROBS = 20, MAX_BIAS = 1024, MAX_CHOICES = 128, MAX_INPUTS = 512, MAX_DEPTH = 64,
       MAX_WHOLE_LOGPROBS = 1 << 18 };

typedef struct request {
    json_t *body; /* what texts point into */
    endpoint endpoint;
    char model[128]; /* empty: not given */
    shk_message *messages; /* [n_messages] chat */
    size_t n_messages;
    prompt_input *inputs; /* [n_inputs] the other endpoints */
    size_t n_inputs;

    shk_sampling sampling; /* its bias is the request's */
    shk_bias *bias;
    bool structured; /* the text is JSON: */
    char *schema;    /* of this schema; NULL: any object */
    bool seeded, stream, include_usage, stats, special, base64;
    int64_t n, seed, max_tokens;
    int64_t top_logprobs; /* alternatives at each token, if `logprobs` */
    bool logprobs;
    char *stop[MAX_STOPS];
    size_t n_stop;
} request;

/* What a request says where the body is silent. */
typedef struct request_defaults {
    shk_sampling sampling;
    int64_t max_tokens, max_choices;
} request_defaults;

/* Reads n bytes of JSON. false: *e says what is wrong; *r is empty then. Token ids are checked against the vocabulary later. */
bool request_parse(request *r, endpoint where, const char *body, size_t n, const request_defaults *d, api_error *e);
/* Messages and texts are gone after this, what remains is small. */
void request_forget_body(request *r);
void request_free(request *r);

#endif
