#include "train/settings.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

typedef enum kind { TEXT, WORD, WHOLE, REAL, FLAG } kind;

typedef struct key {
    const char *name;
    kind kind;
    size_t at;
    double min, max, value; /* range and default of a number */
    const char *text;       /* default of a text; words of a WORD, the first the default */
} key;

#define AT(field) offsetof(shk_settings, field)

static const key keys[] = {
    { "model", TEXT, AT(model) },
    { "tokenizer", TEXT, AT(tokenizer), .text = "" },
    { "data", TEXT, AT(data) },
    { "out", TEXT, AT(out) },
    { "seed", WHOLE, AT(seed), 1, 9e15, 1 },
    { "batch", WHOLE, AT(batch), 1, 1 << 20, 8 },
    { "length", WHOLE, AT(length), 2, 1 << 24, 512 },
    { "accumulate", WHOLE, AT(accumulate), 1, 1 << 20, 1 },
    { "steps", WHOLE, AT(steps), 1, 1e12, NAN },
    { "device", WORD, AT(device), .text = "cpu|cuda" },
    { "threads", WHOLE, AT(threads), 0, 1024, 0 },
    { "compute", WORD, AT(compute), .text = "f32|bf16" },
    { "recompute", FLAG, AT(recompute) },
    { "schedule", WORD, AT(schedule), .text = "cosine|constant" },
    { "rate", REAL, AT(rate), 0, 10, 1e-3 },
    { "final_rate", REAL, AT(final_rate), 0, 1, 0.1 },
    { "warmup", WHOLE, AT(warmup), 0, 1e12, 100 },
    { "decay_steps", WHOLE, AT(decay_steps), 0, 1e12, 0 },
    { "beta1", REAL, AT(beta1), 0, 0.99999, 0.9 },
    { "beta2", REAL, AT(beta2), 0, 0.999999, 0.95 },
    { "eps", REAL, AT(eps), 1e-15, 1, 1e-8 },
    { "weight_decay", REAL, AT(weight_decay), 0, 10, 0.1 },
    { "clip", REAL, AT(clip), 0, 1e9, 1 },
    { "z_loss", REAL, AT(z_loss), 0, 1, 0 },
    { "log_every", WHOLE, AT(log_every), 1, 1e12, 10 },
    { "eval_every", WHOLE, AT(eval_every), 0, 1e12, 0 },
    { "eval_batches", WHOLE, AT(eval_batches), 1, 1e9, 8 },
    { "save_every", WHOLE, AT(save_every), 1, 1e12, 1000 },
    { "keep", WHOLE, AT(keep), 1, 1e9, 3 },
    { "spike", REAL, AT(spike), 0, 1e9, 3 },
};
enum { KEYS = sizeof keys / sizeof *keys };

static void *field(const shk_settings *s, const key *k) { return (char *)s + k->at; }

/* Is it one of the words "a|b|c"? */
static bool among(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *p = words; n && (p = strstr(p, word)); p++)
        if ((p == words || p[-1] == '|') && (p[n] == '|' || !p[n])) return true;
    return false;
}

static shk_status put_text(shk_settings *s, const key *k, const char *text, size_t n, shk_error *err) {
    char **at = field(s, k);
    free(*at);
    *at = shk_memdup(text, n);
    return *at ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "no memory");
}

static shk_status put(shk_settings *s, const key *k, const json_t *v, const char *origin, shk_error *err) {
    double number = json_number_value(v);
    switch (k->kind) {
    case TEXT:
    case WORD:
        if (!json_is_string(v)) return shk_fail(err, SHK_E_FORMAT, "%s: %s is not a string", origin, k->name);
        if (k->kind == WORD && !among(k->text, json_string_value(v)))
            return shk_fail(err, SHK_E_FORMAT, "%s: %s is \"%s\", must be one of %s", origin, k->name, json_string_value(v),
                            k->text);
        return put_text(s, k, json_string_value(v), json_string_length(v), err);
    case FLAG:
        if (!json_is_boolean(v)) return shk_fail(err, SHK_E_FORMAT, "%s: %s is neither true nor false", origin, k->name);
        *(bool *)field(s, k) = json_is_true(v);
        return SHK_OK;
    default:
        if (!json_is_number(v) || !(number >= k->min && number <= k->max) || (k->kind == WHOLE && number != floor(number)))
            return shk_fail(err, SHK_E_FORMAT, "%s: %s must be a%s number from %g to %g", origin, k->name,
                            k->kind == WHOLE ? " whole" : "", k->min, k->max);
        *(double *)field(s, k) = number;
        return SHK_OK;
    }
}

static shk_status put_named(shk_settings *s, const char *name, size_t n, const json_t *v, const char *origin, shk_error *err) {
    for (size_t i = 0; i < KEYS; i++)
        if (strlen(keys[i].name) == n && memcmp(keys[i].name, name, n) == 0) return put(s, &keys[i], v, origin, err);
    return shk_fail(err, SHK_E_FORMAT, "%s: there is no setting %.*s", origin, (int)n, name);
}

static shk_status defaults(shk_settings *s, shk_error *err) {
    memset(s, 0, sizeof *s);
    shk_status st = SHK_OK;
    for (size_t i = 0; !st && i < KEYS; i++) {
        const key *k = &keys[i];
        if (k->kind == WORD) st = put_text(s, k, k->text, strcspn(k->text, "|"), err);
        if (k->kind == WHOLE || k->kind == REAL) *(double *)field(s, k) = k->value;
    }
    return st;
}

static shk_status check(const shk_settings *s, const char *origin, shk_error *err) {
    for (size_t i = 0; i < KEYS; i++) {
        const key *k = &keys[i];
        bool missing = k->kind == TEXT ? !k->text && !*(char **)field(s, k) : k->kind == WHOLE && isnan(*(double *)field(s, k));
        if (missing) return shk_fail(err, SHK_E_FORMAT, "%s: %s is missing", origin, k->name);
    }
    return SHK_OK;
}

shk_status shk_settings_read(shk_settings *s, const char *path, const char *const *set, size_t n, shk_error *err) {
    json_error_t e;
    shk_status st = defaults(s, err);
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &e);
    const char *name;
    json_t *v;
    if (!st && !root) st = shk_fail(err, SHK_E_FORMAT, "%s: line %d: %s", path, e.line, e.text);
    if (!st && !json_is_object(root)) st = shk_fail(err, SHK_E_FORMAT, "%s: not a JSON object", path);
    json_object_foreach(root, name, v) if (!st) st = put_named(s, name, strlen(name), v, path, err);
    for (size_t i = 0; !st && i < n; i++) {
        const char *equals = strchr(set[i], '=');
        if (!equals) {
            st = shk_fail(err, SHK_E_ARGUMENT, "%s: not KEY=VALUE", set[i]);
            break;
        }
        json_t *value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
        if (!value) value = json_string(equals + 1);
        st = value ? put_named(s, set[i], (size_t)(equals - set[i]), value, "--set", err)
                   : shk_fail(err, SHK_E_ARGUMENT, "%s: not text", set[i]);
        json_decref(value);
    }
    json_decref(root);
    return st ? st : check(s, path, err);
}

void shk_settings_free(shk_settings *s) {
    for (size_t i = 0; i < KEYS; i++)
        if (keys[i].kind == TEXT || keys[i].kind == WORD) free(*(char **)field(s, &keys[i]));
    memset(s, 0, sizeof *s);
}

json_t *shk_settings_json(const shk_settings *s) {
    json_t *o = json_object();
    bool ok = o != NULL;
    for (size_t i = 0; ok && i < KEYS; i++) {
        const key *k = &keys[i];
        const void *at = field(s, k);
        bool text = k->kind == TEXT || k->kind == WORD;
        if (text && !*(char *const *)at) continue;
        double number = text || k->kind == FLAG ? 0 : *(const double *)at;
        json_t *v = text                ? json_string(*(char *const *)at)
                    : k->kind == FLAG   ? json_boolean(*(const bool *)at)
                    : k->kind == WHOLE  ? json_integer((json_int_t)number)
                                        : json_real(number);
        ok = v && json_object_set_new(o, k->name, v) == 0;
    }
    if (!ok) json_decref(o);
    return ok ? o : NULL;
}

double shk_settings_rate(const shk_settings *s, uint64_t step) {
    double at = (double)step, warm = at < s->warmup ? (at + 1) / s->warmup : 1, left;
    if (strcmp(s->schedule, "cosine") == 0) left = 0.5 * (1 + cos(M_PI * at / s->steps));
    else left = s->decay_steps > 0 ? fmin(1, (s->steps - at) / s->decay_steps) : 1;
    return s->rate * warm * (s->final_rate + (1 - s->final_rate) * left);
}
