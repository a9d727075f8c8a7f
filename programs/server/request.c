#include "server/request.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

bool refuse(api_error *e, const char *param, const char *format, ...) {
    va_list args;
    va_start(args, format);
    *e = (api_error){ .status = 400, .type = "invalid_request_error", .code = "" };
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
    return false;
}

bool no_memory(api_error *e) {
    refuse(e, NULL, "out of memory");
    e->status = 500;
    e->type = "server_error";
    return false;
}

/* ---- plain fields ---- */

typedef enum field_kind { FIELD_BOOL, FIELD_INT, FIELD_WIDE, FIELD_REAL } field_kind;

typedef struct field {
    const char *name;
    unsigned endpoints;
    field_kind kind;
    size_t at; /* of a bool, an int, an int64_t or a float */
    double min, max;
} field;

#define AT(f) offsetof(request, f)
static const field fields[] = {
    { "temperature", CHAT | COMPLETIONS, FIELD_REAL, AT(sampling.temperature), 0, 2 },
    { "top_p", CHAT | COMPLETIONS, FIELD_REAL, AT(sampling.top_p), 0, 1 },
    { "min_p", CHAT | COMPLETIONS, FIELD_REAL, AT(sampling.min_p), 0, 1 },
    { "top_k", CHAT | COMPLETIONS, FIELD_INT, AT(sampling.top_k), 0, 1 << 30 },
    { "presence_penalty", CHAT | COMPLETIONS, FIELD_REAL, AT(sampling.presence_penalty), -2, 2 },
    { "frequency_penalty", CHAT | COMPLETIONS, FIELD_REAL, AT(sampling.frequency_penalty), -2, 2 },
    { "repeat_penalty", CHAT | COMPLETIONS, FIELD_REAL, AT(sampling.repeat_penalty), 0.01, 100 },
    { "repeat_last_n", CHAT | COMPLETIONS, FIELD_INT, AT(sampling.repeat_last_n), 0, 1 << 20 },
    { "n", CHAT | COMPLETIONS, FIELD_WIDE, AT(n), 1, MAX_CHOICES },
    { "max_tokens", CHAT | COMPLETIONS, FIELD_WIDE, AT(max_tokens), 1, 1 << 30 },
    { "max_completion_tokens", CHAT, FIELD_WIDE, AT(max_tokens), 1, 1 << 30 },
    { "stream", CHAT | COMPLETIONS, FIELD_BOOL, AT(stream), 0, 0 },
    { "stats", CHAT | COMPLETIONS, FIELD_BOOL, AT(stats), 0, 0 },
    { "logprobs", CHAT, FIELD_BOOL, AT(logprobs), 0, 0 },
    { "logprobs", COMPLETIONS, FIELD_WIDE, AT(top_logprobs), 0, MAX_TOP_LOGPROBS },
    { "top_logprobs", CHAT, FIELD_WIDE, AT(top_logprobs), 0, MAX_TOP_LOGPROBS },
    { "special", TOKENIZE | DETOKENIZE, FIELD_BOOL, AT(special), 0, 0 },
};
#undef AT

/* Absent and null are the same: the field keeps what it has. */
static json_t *given(const json_t *o, const char *name) {
    json_t *v = json_object_get(o, name);
    return json_is_null(v) ? NULL : v;
}

static bool read_field(request *r, const field *f, const json_t *v, api_error *e) {
    char *at = (char *)r + f->at;
    if (f->kind == FIELD_BOOL) {
        if (!json_is_boolean(v)) return refuse(e, f->name, "'%s' must be true or false", f->name);
        *(bool *)at = json_is_true(v);
        return true;
    }
    bool whole = f->kind != FIELD_REAL;
    double x = json_number_value(v);
    if (whole ? !json_is_integer(v) : !json_is_number(v))
        return refuse(e, f->name, "'%s' must be a%s number", f->name, whole ? " whole" : "");
    if (!(x >= f->min && x <= f->max))
        return refuse(e, f->name, "'%s' is %.15g; it must be from %.15g to %.15g", f->name, x, f->min, f->max);
    if (f->kind == FIELD_INT) *(int *)(void *)at = (int)json_integer_value(v);
    else if (f->kind == FIELD_WIDE) *(int64_t *)(void *)at = json_integer_value(v);
    else *(float *)(void *)at = (float)x;
    return true;
}

static bool read_fields(request *r, api_error *e) {
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const json_t *v = given(r->body, fields[i].name);
        if (v && (fields[i].endpoints & r->endpoint) && !read_field(r, &fields[i], v, e)) return false;
    }
    return true;
}

/* ---- what cannot be done is said, unless it asks for nothing ---- */

static bool asks_nothing(const char *name, const json_t *v) {
    if (json_is_false(v) || ((json_is_array(v) || json_is_object(v)) && !json_array_size(v) && !json_object_size(v))) return true;
    const char *word = json_string_value(json_is_array(v) && json_array_size(v) == 1 ? json_array_get(v, 0) : v);
    if (!strcmp(name, "best_of")) return json_is_integer(v) && json_integer_value(v) == 1;
    return word && (!strcmp(word, "none") || !strcmp(word, "auto") || !strcmp(word, "text") || !*word);
}

static bool read_unsupported(const request *r, api_error *e) {
    static const char *const names[] = { "tools",  "tool_choice", "functions", "function_call", "audio",    "modalities",
                                         "suffix", "best_of",     "echo",      "prediction",    "dimensions" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *v = given(r->body, names[i]);
        if (v && !asks_nothing(names[i], v)) return refuse(e, names[i], "'%s' is not supported", names[i]);
    }
    return true;
}

/* ---- fields of their own form ---- */

static bool read_model(request *r, api_error *e) {
    const json_t *v = given(r->body, "model");
    if (!v) return true;
    if (!json_is_string(v)) return refuse(e, "model", "'model' must be a string");
    if (json_string_length(v) >= sizeof r->model) return refuse(e, "model", "'model' is longer than any model's name here");
    snprintf(r->model, sizeof r->model, "%s", json_string_value(v));
    return true;
}

static bool read_seed(request *r, api_error *e) {
    const json_t *v = given(r->body, "seed");
    if (!v) return true;
    if (!json_is_integer(v)) return refuse(e, "seed", "'seed' must be a whole number");
    r->seed = json_integer_value(v);
    return r->seeded = true;
}

static bool add_stop(request *r, const json_t *v, api_error *e) {
    enum { LONGEST = 512 };
    const char *s = json_string_value(v);
    if (!s || !*s || json_string_length(v) > LONGEST)
        return refuse(e, "stop", "'stop' must be a string of 1 to %d bytes, or a list of up to %d such", LONGEST, MAX_STOPS);
    if (!(r->stop[r->n_stop] = shk_strdup(s))) return no_memory(e);
    r->n_stop++;
    return true;
}

static bool read_stop(request *r, api_error *e) {
    const json_t *v = given(r->body, "stop");
    if (!v) return true;
    if (!json_is_array(v)) return add_stop(r, v, e);
    if (json_array_size(v) > MAX_STOPS)
        return refuse(e, "stop", "'stop' has %zu strings; at most %d", json_array_size(v), MAX_STOPS);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!add_stop(r, json_array_get(v, i), e)) return false;
    return true;
}

static bool read_bias(request *r, api_error *e) {
    json_t *o = given(r->body, "logit_bias"), *v;
    const char *key;
    if (!o) return true;
    if (!json_is_object(o)) return refuse(e, "logit_bias", "'logit_bias' must be an object of numbers by token id");
    if (json_object_size(o) > MAX_BIAS) return refuse(e, "logit_bias", "'logit_bias' has more than %d tokens", MAX_BIAS);
    if (!(r->bias = shk_calloc(json_object_size(o), sizeof *r->bias))) return no_memory(e);
    json_object_foreach(o, key, v) {
        size_t digits = strspn(key, "0123456789");
        if (!digits || digits > 9 || key[digits])
            return refuse(e, "logit_bias", "'logit_bias' has the key '%.40s', which is no token id", key);
        double x = json_number_value(v);
        if (!json_is_number(v) || !(fabs(x) <= 100))
            return refuse(e, "logit_bias", "'logit_bias' of %s must be a number from -100 to 100", key);
        r->bias[r->sampling.n_bias++] = (shk_bias){ (int32_t)strtol(key, NULL, 10), (float)x };
    }
    r->sampling.bias = r->bias;
    return true;
}

static bool read_stream_options(request *r, api_error *e) {
    const json_t *o = given(r->body, "stream_options"), *v = given(o, "include_usage");
    if (!o) return true;
    if (!json_is_object(o)) return refuse(e, "stream_options", "'stream_options' must be an object");
    if (!r->stream) return refuse(e, "stream_options", "'stream_options' is for streams: set 'stream'");
    if (v && !json_is_boolean(v)) return refuse(e, "stream_options.include_usage", "'include_usage' must be true or false");
    r->include_usage = json_is_true(v);
    return true;
}

static bool read_response_format(request *r, api_error *e) {
    const json_t *o = given(r->body, "response_format");
    if (!o) return true;
    const char *type = json_string_value(json_object_get(o, "type"));
    if (!type) return refuse(e, "response_format", "'response_format' must be an object with a 'type'");
    if (!strcmp(type, "text")) return true;
    r->structured = true;
    if (!strcmp(type, "json_object")) return true;
    if (strcmp(type, "json_schema"))
        return refuse(e, "response_format.type", "'%.40s' is none of text, json_object and json_schema", type);
    const json_t *schema = json_object_get(json_object_get(o, "json_schema"), "schema");
    if (!schema) return refuse(e, "response_format.json_schema", "'json_schema' must be an object with a 'schema'");
    r->schema = json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
    return r->schema || no_memory(e);
}

static bool read_encoding(request *r, api_error *e) {
    const json_t *v = given(r->body, "encoding_format");
    const char *word = json_string_value(v);
    if (v && (!word || (strcmp(word, "float") && strcmp(word, "base64"))))
        return refuse(e, "encoding_format", "'encoding_format' must be \"float\" or \"base64\"");
    r->base64 = word && !strcmp(word, "base64");
    return true;
}

/* ---- messages ---- */

/* The text of a content that is a list of parts, joined; it becomes a string of the body, which owns it. */
static const char *join_parts(json_t *message, const json_t *parts, size_t at, api_error *e) {
    shk_buffer text = { 0 };
    const char *joined = NULL;
    char param[64];
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *s = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        snprintf(param, sizeof param, "messages[%zu].content[%zu]", at, i);
        if (!type || (!strcmp(type, "text") && !json_is_string(s))) {
            refuse(e, param, "a content part must have a 'type', and a text part a 'text'");
            goto done;
        }
        if (strcmp(type, "text")) {
            refuse(e, param, "content of type '%.40s' is not supported: this model reads text", type);
            goto done;
        }
        if (!shk_buffer_append(&text, json_string_value(s), json_string_length(s))) {
            no_memory(e);
            goto done;
        }
    }
    json_t *whole = json_stringn_nocheck(text.data ? text.data : "", text.n);
    joined = json_string_value(whole);
    if (!whole || json_object_set_new(message, "content", whole)) joined = NULL, no_memory(e);
done:
    shk_buffer_free(&text);
    return joined;
}

static bool read_message(request *r, json_t *m, size_t at, api_error *e) {
    static const char *const roles[][2] = { { "system", "system" }, { "developer", "system" }, { "user", "user" },
                                            { "assistant", "assistant" } };
    const char *role = json_string_value(json_object_get(m, "role")), *known = NULL;
    const json_t *content = given(m, "content");
    char param[64];
    snprintf(param, sizeof param, "messages[%zu].role", at);
    for (size_t i = 0; role && i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(role, roles[i][0])) known = roles[i][1];
    if (!role) return refuse(e, param, "a message must be an object with a 'role'");
    if (!known) return refuse(e, param, "a message's role is '%.40s'; there are system, developer, user and assistant", role);
    snprintf(param, sizeof param, "messages[%zu].content", at);
    const char *text = json_is_array(content) ? join_parts(m, content, at, e) : json_string_value(content);
    if (!text && json_is_array(content)) return false;
    if (!text) return refuse(e, param, "a message's content must be a string or a list of parts");
    r->messages[r->n_messages++] = (shk_message){ known, text };
    return true;
}

static bool read_messages(request *r, api_error *e) {
    const json_t *list = given(r->body, "messages");
    if (!json_is_array(list) || !json_array_size(list))
        return refuse(e, "messages", "'messages' must be a list of messages, not empty");
    if (!(r->messages = shk_calloc(json_array_size(list), sizeof *r->messages))) return no_memory(e);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!read_message(r, json_array_get(list, i), i, e)) return false;
    return true;
}

/* ---- prompts ---- */

static bool read_ids(prompt_input *in, const json_t *list, const char *name, api_error *e) {
    in->n = json_array_size(list);
    if (!(in->ids = shk_calloc(in->n, sizeof *in->ids))) return no_memory(e);
    for (size_t i = 0; i < in->n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > INT32_MAX)
            return refuse(e, name, "'%s' has something at %zu that is no token id", name, i);
        in->ids[i] = (int32_t)id;
    }
    return true;
}

static bool read_input(request *r, const json_t *v, const char *name, api_error *e) {
    prompt_input *in = &r->inputs[r->n_inputs++];
    if (json_is_array(v)) return read_ids(in, v, name, e);
    if (!json_is_string(v)) return refuse(e, name, "'%s' must be a string, a list of token ids, or a list of such", name);
    *in = (prompt_input){ .text = json_string_value(v), .n = json_string_length(v) };
    return true;
}

/* A string, ids, or a list of those. */
static bool read_inputs(request *r, const char *name, api_error *e) {
    const json_t *v = given(r->body, name);
    bool several = json_is_array(v) && json_array_size(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = several ? json_array_size(v) : 1;
    if (!v) return refuse(e, name, "'%s' is missing", name);
    if (n > MAX_INPUTS) return refuse(e, name, "'%s' has %zu texts; at most %d", name, n, MAX_INPUTS);
    if (!(r->inputs = shk_calloc(n, sizeof *r->inputs))) return no_memory(e);
    if (!several) return read_input(r, v, name, e);
    for (size_t i = 0; i < n; i++)
        if (!read_input(r, json_array_get(v, i), name, e)) return false;
    return true;
}

/* ---- the whole ---- */

/* jansson would go 2048 deep, by recursion. */
static bool check_depth(const char *s, size_t n, api_error *e) {
    size_t depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (quoted) {
            if (s[i] == '\\') i++;
            else if (s[i] == '"') quoted = false;
            continue;
        }
        if (s[i] == '"') quoted = true;
        else if ((s[i] == '[' || s[i] == '{') && ++depth > MAX_DEPTH)
            return refuse(e, NULL, "the body is nested more than %d deep", MAX_DEPTH);
        else if ((s[i] == ']' || s[i] == '}') && depth > 0) depth--;
    }
    return true;
}

/* A stream's are sent as they come, but a whole answer's are kept until the end, at some hundred bytes each. */
static bool check_logprobs(const request *r, api_error *e) {
    int64_t texts = r->n * (r->endpoint == CHAT ? 1 : (int64_t)r->n_inputs);
    int64_t wanted = r->logprobs ? texts * r->max_tokens * (r->top_logprobs + 1) : 0;
    if (r->stream || wanted <= MAX_WHOLE_LOGPROBS) return true;
    return refuse(e, r->endpoint == CHAT ? "top_logprobs" : "logprobs",
                  "up to %lld log-probabilities (texts x 'max_tokens' x alternatives and the token itself); an answer that is not "
                  "streamed has at most %d",
                  (long long)wanted, MAX_WHOLE_LOGPROBS);
}

static bool read_generation(request *r, const request_defaults *d, api_error *e) {
    if (!read_seed(r, e) || !read_stop(r, e) || !read_bias(r, e) || !read_stream_options(r, e) || !read_response_format(r, e))
        return false;
    if (r->n > d->max_choices)
        return refuse(e, "n", "'n' is %lld; this server makes at most %lld", (long long)r->n, (long long)d->max_choices);
    if (r->endpoint == CHAT) {
        if (r->top_logprobs > 0 && !r->logprobs) return refuse(e, "top_logprobs", "'top_logprobs' wants 'logprobs' to be true");
        if (r->logprobs && r->top_logprobs < 0) r->top_logprobs = 0;
    } else {
        r->logprobs = r->top_logprobs >= 0;
    }
    return (r->endpoint == CHAT ? read_messages(r, e) : read_inputs(r, "prompt", e)) && check_logprobs(r, e);
}

static bool read_body(request *r, const request_defaults *d, api_error *e) {
    if (!json_is_object(r->body)) return refuse(e, NULL, "the body must be a JSON object");
    if (!read_model(r, e) || !read_fields(r, e) || !read_unsupported(r, e)) return false;
    switch (r->endpoint) {
    case CHAT: case COMPLETIONS: return read_generation(r, d, e);
    case EMBEDDINGS: return read_encoding(r, e) && read_inputs(r, "input", e);
    case TOKENIZE: return read_inputs(r, "text", e);
    case DETOKENIZE: return read_inputs(r, "tokens", e);
    }
    return false;
}

bool request_parse(request *r, endpoint where, const char *body, size_t n, const request_defaults *d, api_error *e) {
    json_error_t bad;
    *r = (request){ .endpoint = where, .sampling = d->sampling, .n = 1, .max_tokens = d->max_tokens, .top_logprobs = -1 };
    if (!check_depth(body, n, e)) return false;
    r->body = json_loadb(body, n, JSON_REJECT_DUPLICATES, &bad);
    if (!r->body) return refuse(e, NULL, "the body cannot be read as JSON: line %d: %.200s", bad.line, bad.text);
    bool sound = read_body(r, d, e);
    if (!sound) request_free(r);
    return sound;
}

void request_forget_body(request *r) {
    for (size_t i = 0; i < r->n_inputs; i++) free(r->inputs[i].ids);
    free(r->inputs);
    free(r->messages);
    json_decref(r->body);
    r->inputs = NULL, r->messages = NULL, r->body = NULL;
    r->n_inputs = r->n_messages = 0;
}

void request_free(request *r) {
    request_forget_body(r);
    for (size_t i = 0; i < r->n_stop; i++) free(r->stop[i]);
    free(r->bias);
    free(r->schema);
    *r = (request){ 0 };
}
