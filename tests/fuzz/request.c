/* The body of an API request. The first byte says at which address it came in. */
#include "fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/request.h"

/* What is accepted is within its bounds. */
static void check(const request *r, const request_defaults *d) {
    size_t total = 0;
    if (r->n < 1 || r->n > d->max_choices || r->max_tokens < 1 || r->top_logprobs > MAX_TOP_LOGPROBS) abort();
    if (!isfinite(r->sampling.temperature) || r->sampling.top_k < 0 || r->sampling.n_bias > MAX_BIAS) abort();
    if (strlen(r->model) >= sizeof r->model) abort();
    for (size_t i = 0; i < r->n_stop; i++) total += strlen(r->stop[i]);
    for (size_t i = 0; i < r->n_messages; i++) total += strlen(r->messages[i].role) + strlen(r->messages[i].text);
    for (size_t i = 0; i < r->n_inputs; i++)
        for (size_t j = 0; j < r->inputs[i].n; j++)
            total += r->inputs[i].text ? (size_t)r->inputs[i].text[j] : (size_t)r->inputs[i].ids[j];
    for (size_t i = 0; i < r->sampling.n_bias; i++)
        if (r->bias[i].id < 0) abort();
    if (r->endpoint == CHAT ? !r->n_messages : !r->n_inputs) abort();
    if (total == SIZE_MAX) abort(); /* all of it has been read */
}

static bool accepts(const uint8_t *data, size_t n) {
    static const char letters[] = "cpetd";
    static const request_defaults d = { .sampling = { .top_p = 1, .repeat_penalty = 1 }, .max_tokens = 16, .max_choices = 8 };
    const char *where = n && data[0] ? strchr(letters, data[0]) : NULL;
    request r;
    api_error e;
    if (!where) return false;
    bool sound = request_parse(&r, (endpoint)(1 << (where - letters)), (const char *)data + 1, n - 1, &d, &e);
    if (!sound && (!*e.message || e.status < 400 || strlen(e.param) >= sizeof e.param)) abort();
    if (sound) check(&r, &d);
    if (sound) request_forget_body(&r);
    request_free(&r);
    return sound;
}
