#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>

#include "program.h"

static const option help_option = { "help", 'h', OPT_FLAG, 0, 0, 0, NULL, "show this help" };

const option *command_option(const command *c, size_t i) {
    size_t n = 0;
    while (c->options[n].name) n++;
    return i < n ? &c->options[i] : i == n ? &help_option : NULL;
}

const command *command_find(const char *name) {
    for (size_t i = 0; commands[i]; i++)
        if (!strcmp(commands[i]->name, name)) return commands[i];
    return NULL;
}

const char *command_name(size_t i) {
    size_t n = 0;
    while (commands[n]) n++;
    return i < n ? commands[i]->name : NULL;
}

int misuse(const command *c, const char *format, ...) {
    char message[400];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    bool whole = c == &program;
    fail("%s; see 'sparkhawk help%s%s'", message, whole ? "" : " ", whole ? "" : c->name);
    return EXIT_USAGE;
}

bool parse_int(const char *s, int64_t *out) {
    const char *digits = *s == '-' ? s + 1 : s;
    char *end;
    if (!isdigit((unsigned char)*digits)) return false;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno || *end) return false;
    *out = v;
    return true;
}

bool parse_real(const char *s, double *out) {
    if (!*s || s[strspn(s, "+-.0123456789eE")]) return false; /* strtod also takes spaces, hexadecimal, inf and nan */
    char *end;
    double v = strtod(s, &end);
    if (*end || !isfinite(v)) return false;
    *out = v;
    return true;
}

const char *choice_word(const char *choices, size_t i, size_t *n) {
    for (; choices && i > 0; i--) choices = (choices = strchr(choices, '|')) ? choices + 1 : NULL;
    if (choices) *n = strcspn(choices, "|");
    return choices;
}

static bool choice_has(const char *choices, const char *s) {
    size_t n;
    const char *word;
    for (size_t i = 0; (word = choice_word(choices, i, &n)); i++)
        if (strlen(s) == n && !memcmp(word, s, n)) return true;
    return false;
}

/* Levenshtein's distance, one row at a time; a word that only lacks its end is at distance 1. */
static size_t distance(const char *a, const char *b) {
    enum { LONGEST = 40 };
    size_t n = strlen(a), m = strlen(b), row[LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return SIZE_MAX;
    if (n > 1 && !strncmp(a, b, n)) return m > n;
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (best > row[j] + 1) best = row[j] + 1;
            if (best > row[j - 1] + 1) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m];
}

const char *closest(const char *s, const char *const *words, size_t n) {
    const char *best = NULL;
    size_t limit = 1 + strlen(s) / 3; /* further away is another word */
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(s, words[i]);
        if (d <= limit) limit = d - (d > 0), best = words[i];
        if (d == 0) break;
    }
    return best;
}

static int unknown(const command *c, const char *name) {
    const char *names[64];
    size_t n = 0;
    for (const option *o; n < 64 && (o = command_option(c, n)); n++) names[n] = o->name;
    const char *near = closest(name, names, n);
    return misuse(c, "unknown option --%s%s%s%s", name, near ? " (did you mean --" : "", near ? near : "", near ? "?)" : "");
}

const char *option_range(const command *c, const option *o, char *buf, size_t size) {
    const char *field = (const char *)c->defaults + o->at;
    *buf = 0;
    switch (o->kind) {
    case OPT_INT:
        if (o->max < 1e6) snprintf(buf, size, "%.0f to %.0f, ", o->min, o->max); /* larger bounds are nobody's concern */
        snprintf(buf + strlen(buf), size - strlen(buf), "default %lld", (long long)*(const int64_t *)field);
        break;
    case OPT_SIZE: break;
    case OPT_REAL: snprintf(buf, size, "%g to %g, default %g", o->min, o->max, *(const double *)field); break;
    case OPT_TEXT: case OPT_PATH: case OPT_CHOICE:
        if (*(const char *const *)field) snprintf(buf, size, "default %s", *(const char *const *)field);
        break;
    case OPT_FLAG: break;
    case OPT_LIST: snprintf(buf, size, "may be repeated"); break;
    }
    return buf;
}

/* "15M": a number below 2^40 and a unit, or neither more nor less than the number */
static bool parse_size(const char *s, int64_t *out) {
    static const char units[] = "kMG";
    char digits[16];
    size_t n = strspn(s, "0123456789");
    if (n >= sizeof digits) return false;
    memcpy(digits, s, n), digits[n] = 0;
    const char *unit = s[n] ? strchr(units, s[n]) : NULL;
    if (!parse_int(digits, out) || *out >= INT64_C(1) << 40 || (s[n] && (!unit || s[n + 1]))) return false;
    for (const char *u = units; unit && u <= unit; u++) *out *= 1000;
    return true;
}

static int set(const command *c, const option *o, const char *value, void *args) {
    void *field = (char *)args + o->at;
    switch (o->kind) {
    case OPT_FLAG: *(bool *)field = true; return 0;
    case OPT_INT: {
        int64_t v;
        if (!parse_int(value, &v) || v < (int64_t)o->min || v > (int64_t)o->max)
            return misuse(c, "--%s: '%s' is no whole number from %.0f to %.0f", o->name, value, o->min, o->max);
        *(int64_t *)field = v;
        return 0;
    }
    case OPT_SIZE: {
        int64_t v;
        if (!parse_size(value, &v) || !v) return misuse(c, "--%s: '%s' is no size, such as 15M", o->name, value);
        *(int64_t *)field = v;
        return 0;
    }
    case OPT_REAL: {
        double v;
        if (!parse_real(value, &v) || v < o->min || v > o->max)
            return misuse(c, "--%s: '%s' is no number from %g to %g", o->name, value, o->min, o->max);
        *(double *)field = v;
        return 0;
    }
    case OPT_CHOICE:
        if (!choice_has(o->value, value)) return misuse(c, "--%s: '%s' is none of %s", o->name, value, o->value);
        *(const char **)field = value;
        return 0;
    case OPT_TEXT: case OPT_PATH: *(const char **)field = value; return 0;
    case OPT_LIST: {
        strings *list = field;
        list->items = need(list->items, list->n + 1, sizeof *list->items);
        list->items[list->n++] = value;
        return 0;
    }
    }
    return 0;
}

/* The option that argv[*i] starts with, NULL after a message; *value: what stands behind it in the same word, or NULL. */
static const option *match(const command *c, const char *word, const char **value) {
    const option *o;
    if (word[1] != '-') {
        for (size_t i = 0; (o = command_option(c, i)); i++)
            if (o->letter == word[1]) {
                *value = word[2] ? word + 2 : NULL;
                return o;
            }
        misuse(c, "unknown option -%c", word[1]);
        return NULL;
    }
    char name[64];
    size_t n = strcspn(word + 2, "=");
    snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : (int)sizeof name - 1, word + 2);
    for (size_t i = 0; (o = command_option(c, i)); i++)
        if (!strcmp(o->name, name)) {
            *value = word[2 + n] ? word + 3 + n : NULL;
            return o;
        }
    unknown(c, name);
    return NULL;
}

static parse_result parse_words(const command *c, int argc, char **argv, void *args, strings *operands) {
    bool options = true;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i], *value = NULL;
        if (options && !strcmp(word, "--")) {
            options = false;
        } else if (options && word[0] == '-' && word[1]) {
            const option *o = match(c, word, &value);
            if (!o) return PARSE_WRONG;
            if (o->kind == OPT_FLAG && value) {
                misuse(c, "--%s takes no value", o->name);
                return PARSE_WRONG;
            }
            if (o == &help_option) return PARSE_HELP;
            if (o->kind != OPT_FLAG && !value && !(value = ++i < argc ? argv[i] : NULL)) {
                misuse(c, "--%s needs a value (%s)", o->name, o->value);
                return PARSE_WRONG;
            }
            if (set(c, o, value, args)) return PARSE_WRONG;
        } else {
            operands->items = need(operands->items, operands->n + 1, sizeof *operands->items);
            operands->items[operands->n++] = word;
        }
    }
    if (operands->n > c->max_operands) {
        misuse(c, "unexpected operand '%s'", operands->items[c->max_operands]);
        return PARSE_WRONG;
    }
    if (operands->n < c->min_operands) {
        misuse(c, "%s wants %s", c->name, c->operands);
        return PARSE_WRONG;
    }
    return PARSE_RUN;
}

parse_result options_parse(const command *c, int argc, char **argv, void *args, strings *operands) {
    *operands = (strings){ 0 };
    return parse_words(c, argc, argv, args, operands);
}

void options_free(const command *c, void *args, strings *operands) {
    for (const option *o = c->options; o->name; o++)
        if (o->kind == OPT_LIST) free(((strings *)(void *)((char *)args + o->at))->items);
    free(operands->items);
}
