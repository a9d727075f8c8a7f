/* Rules for the values of each type. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/numbers.h"
#include "grammar/regex.h"
#include "grammar/schema.h"

enum { MAX_BLANKS = 48, MAX_TABS = 16 }; /* of the indentation behind a newline */

/* ---- formats: RFC 3339, RFC 9562, RFC 5321 without quoted and international parts, RFC 1123, RFC 4291 without IPv4 parts ---- */

#define DAY29 "(0[1-9]|1[0-9]|2[0-9])"
#define DAYS "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
#define LEAP "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
#define DATE "([0-9]{4}-" DAYS "|" LEAP "-02-29)"
#define TIME "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define H "[0-9a-fA-F]{1,4}"
#define N "[0-9]{1,9}"

static const struct {
    const char *name, *pattern;
} formats[] = {
    { "date", DATE },
    { "time", TIME },
    { "date-time", DATE "T" TIME },
    { "duration", "P(" N "W|(" N "Y(" N "M(" N "D)?)?|" N "M(" N "D)?|" N "D)(T(" N "H(" N "M(" N "S)?)?|" N "M(" N "S)?|" N "S))?|"
                  "T(" N "H(" N "M(" N "S)?)?|" N "M(" N "S)?|" N "S))" },
    { "uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}" },
    { "email", "[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,31}){0,1}@(" LABEL "\\.){1,4}[A-Za-z]{2,24}" },
    { "hostname", LABEL "(\\." LABEL "){0,3}" },
    { "ipv4", OCTET "(\\." OCTET "){3}" },
    { "ipv6", "(" H ":){7}" H "|(" H ":){1,7}:|(" H ":){1,6}:" H "|(" H ":){1,5}(:" H "){1,2}|(" H ":){1,4}(:" H "){1,3}|"
              "(" H ":){1,3}(:" H "){1,4}|(" H ":){1,2}(:" H "){1,5}|" H ":(:" H "){1,6}|:((:" H "){1,7}|:)" },
};

/* ---- parts ---- */

static uint32_t text(shk_compiler *c, const char *s, uint32_t next) { return shk_automaton_text(c->a, s, strlen(s), next); }

/* Nothing, a space, or a newline with indentation: as json.dumps and its like write, and models; but never without end. */
static uint32_t space(shk_compiler *c, uint32_t next) {
    uint32_t indented = shk_automaton_loop(c->a, c->blank, 0, MAX_BLANKS, next);
    indented = shk_automaton_split(c->a, indented, shk_automaton_loop(c->a, c->tab, 1, MAX_TABS, next));
    return shk_automaton_split(c->a, next, shk_automaton_split(c->a, text(c, " ", next), text(c, "\n", indented)));
}

/* A colon, perhaps a space, and a value. */
static uint32_t member_value(shk_compiler *c, uint32_t rule, uint32_t next) {
    uint32_t value = shk_automaton_call(c->a, rule, next);
    return text(c, ":", shk_automaton_split(c->a, value, text(c, " ", value)));
}

/* What stands between brackets, which counts as one level of nesting. */
static uint32_t nested(shk_compiler *c, uint32_t rule) {
    uint32_t call = shk_automaton_call(c->a, rule, SHK_RETURN);
    if (call != SHK_DEAD) c->a->nodes[call].nests = 1;
    return call;
}

static uint32_t count_of(const json_t *plain, const char *key, uint32_t otherwise) {
    double x = json_number_value(json_object_get(plain, key));
    if (!json_object_get(plain, key)) return otherwise;
    return x < (double)(1u << 31) ? (uint32_t)x : otherwise == SHK_MANY ? SHK_MANY : 1u << 31;
}

/* ---- strings and numbers ---- */

static uint32_t pattern(shk_compiler *c, const char *p, size_t n, unsigned flags, shk_bounds b, uint32_t next,
                        const shk_place *place, const char *key) {
    uint32_t start = SHK_DEAD;
    shk_status status = c->status ? c->status : shk_regex_compile(c->a, &start, p, n, flags, b, next, c->err);
    if (status == SHK_E_MEMORY) shk_compiler_no_memory(c);
    else if (status) shk_compiler_fail_in(c, status, place, key);
    return start;
}

#define X "[0-9a-fA-F]"

/* The rules of one character that loops repeat. In a string any escape but \u0000, which many readers refuse. */
static void make_characters(shk_compiler *c) {
    static const shk_place root = { 0 };
    static const char *const escapes[] = {
        "[/bfnrt]|u(0(0(0[1-9a-fA-F]|[1-9a-fA-F]" X ")|[1-9a-fA-F]" X X ")|[1-9a-cA-CeEfF]" X X X "|[dD][0-7]" X X ")",
        "u[dD][89abAB]" X X,
        "u[dD][c-fC-F]" X X,
    };
    static const uint32_t plain[][2] = { { 0x20, 0x21 }, { 0x23, 0x5b }, { 0x5d, 0x10ffff } };
    uint32_t escape[3], next = SHK_RETURN;
    for (int i = 2; i >= 0; i--) { /* the second half of a pair, the first, all else */
        escape[i] = pattern(c, escapes[i], strlen(escapes[i]), SHK_REGEX_WHOLE, (shk_bounds){ 0, SHK_MANY }, next, &root, NULL);
        next = i == 2 ? text(c, "\\", escape[i]) : SHK_RETURN;
    }
    uint32_t any = shk_automaton_split(c->a, escape[0], escape[1]);
    any = shk_automaton_split(c->a, any, shk_automaton_split(c->a, text(c, "\\", SHK_RETURN), text(c, "\"", SHK_RETURN)));
    c->character = text(c, "\\", any);
    for (int i = 0; i < 3; i++)
        c->character = shk_automaton_split(c->a, c->character, shk_automaton_chars(c->a, plain[i][0], plain[i][1], SHK_RETURN));
    c->blank = text(c, " ", SHK_RETURN);
    c->tab = text(c, "\t", SHK_RETURN);
}

static uint32_t string_rule(shk_compiler *c, const json_t *plain, const shk_place *place) {
    shk_bounds b = { count_of(plain, "minLength", 0), count_of(plain, "maxLength", SHK_MANY) };
    const json_t *p = json_object_get(plain, "pattern");
    const char *format = json_string_value(json_object_get(plain, "format"));
    uint32_t close = text(c, "\"", SHK_RETURN), start = SHK_DEAD;
    size_t i = 0;
    while (format && i < sizeof formats / sizeof *formats && strcmp(formats[i].name, format)) i++;
    if (p) start = pattern(c, json_string_value(p), json_string_length(p), 0, b, close, place, "pattern");
    else if (format && i < sizeof formats / sizeof *formats)
        start = pattern(c, formats[i].pattern, strlen(formats[i].pattern), SHK_REGEX_WHOLE, b, close, place, "format");
    else start = shk_automaton_loop(c->a, c->character, b.min, b.max, close);
    return text(c, "\"", start);
}

/* Of an inclusive and an exclusive limit the one that excludes more. */
static shk_limit limit(const json_t *plain, const char *key, const char *exclusive, bool greater) {
    const json_t *x = json_object_get(plain, key), *y = json_object_get(plain, exclusive);
    double a = json_number_value(x), b = json_number_value(y);
    bool strict = y && (!x || (greater ? b >= a : b <= a));
    return (shk_limit){ strict ? y : x, strict };
}

static uint32_t number_rule(shk_compiler *c, const json_t *plain, bool integer, const shk_place *place) {
    const json_t *step = json_object_get(plain, "multipleOf");
    if (step && !(integer && json_number_value(step) == 1)) {
        shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, "multipleOf", "only 1, of integers, is supported");
        return SHK_DEAD;
    }
    shk_buffer p = { 0 };
    bool none = false;
    uint32_t start = SHK_DEAD;
    shk_status status = shk_number_pattern(&p, &none, integer, limit(plain, "minimum", "exclusiveMinimum", true),
                                           limit(plain, "maximum", "exclusiveMaximum", false), c->err);
    if (status) shk_compiler_fail_in(c, status, place, "minimum");
    if (!status && !none)
        start = pattern(c, p.data, p.n, SHK_REGEX_WHOLE, (shk_bounds){ 0, SHK_MANY }, SHK_RETURN, place, "minimum");
    shk_buffer_free(&p);
    return start;
}

/* ---- objects ---- */

/* A key that is not listed, with its value, as a rule. */
static uint32_t other_member(shk_compiler *c, const json_t *plain, const json_t *properties, const shk_place *place) {
    const json_t *rest = json_object_get(plain, "additionalProperties"), *names = json_object_get(plain, "propertyNames");
    json_t *patterns = json_object_get(plain, "patternProperties"), *schema;
    const char *key;
    if (json_object_size(patterns)) {
        if (json_object_size(patterns) > 1 || json_object_size(properties) || names || (rest && !json_is_false(rest))) {
            shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, "patternProperties", "only one, beside nothing but false as "
                              "additionalProperties, is supported");
            return SHK_DEAD;
        }
        json_object_foreach(patterns, key, schema) {
            const shk_place *at = shk_place_key(c, shk_place_key(c, place, "patternProperties"), key);
            uint32_t value = member_value(c, shk_compiler_rule(c, schema, at), SHK_RETURN);
            return text(c, "\"", pattern(c, key, strlen(key), 0, (shk_bounds){ 0, SHK_MANY }, text(c, "\"", value), place,
                                         "patternProperties"));
        }
    }
    if (json_is_false(rest) || (!rest && json_object_size(properties))) return SHK_DEAD;
    uint32_t rule = rest ? shk_compiler_rule(c, rest, shk_place_key(c, place, "additionalProperties")) : c->any;
    uint32_t value = member_value(c, rule, SHK_RETURN);
    if (!names) return text(c, "\"", shk_other_key(c, properties, value));
    if (json_object_size(properties)) {
        shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, "propertyNames", "it is not supported beside properties");
        return SHK_DEAD;
    }
    json_t *both = shk_compiler_own(c, json_pack("{s:[{s:s}, O]}", "allOf", "type", "string", names));
    return both ? shk_automaton_call(c->a, shk_compiler_rule(c, both, shk_place_key(c, place, "propertyNames")), value) : SHK_DEAD;
}

/* The listed properties, and what is required without being listed; *needed: an object whose keys are required. */
static json_t *all_properties(shk_compiler *c, const json_t *plain, const shk_place *place, json_t **needed) {
    const json_t *required = json_object_get(plain, "required"), *rest = json_object_get(plain, "additionalProperties");
    json_t *listed = json_object_get(plain, "properties");
    json_t *all = shk_compiler_own(c, listed ? json_copy(listed) : json_object());
    *needed = shk_compiler_own(c, json_object());
    for (size_t i = 0; i < json_array_size(required) && !c->status; i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name) shk_compiler_fail(c, SHK_E_FORMAT, place, "required", "it must be an array of strings");
        if (name) shk_compiler_set(c, *needed, name, json_true());
        if (name && !json_object_get(all, name)) shk_compiler_set(c, all, name, rest ? rest : json_true());
    }
    return all;
}

/* Members come in the schema's order, those that are not required or not, others behind them. From the last one on: `from` is the
 * i-th member or what may stand in its place, `behind` what may follow where it would come next and members stand already. */
static uint32_t object_rule(shk_compiler *c, const json_t *plain, const shk_place *place) {
    json_t *needed, *properties = all_properties(c, plain, place, &needed), *schema;
    uint32_t min = count_of(plain, "minProperties", 0), max = count_of(plain, "maxProperties", SHK_MANY);
    if (c->status) return SHK_DEAD;
    uint32_t other = other_member(c, plain, properties, place), end = space(c, text(c, "}", SHK_RETURN));
    size_t n = json_object_size(properties), i = n;
    /* keys that are not listed may come twice, and then count once */
    if (min > (n ? json_object_size(needed) : 1))
        shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, "minProperties", "only what required says anyway, or 1, is supported");
    if (n > 0 && max != SHK_MANY && (other != SHK_DEAD || max < n))
        shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, "maxProperties", "it is not supported beside properties");
    if (c->status) return SHK_DEAD;
    uint32_t one_more = text(c, ",", space(c, other));
    uint32_t behind = n ? shk_automaton_loop(c->a, one_more, 0, SHK_MANY, end)
                        : shk_automaton_loop(c->a, one_more, min ? min - 1 : 0, max == SHK_MANY || !max ? max : max - 1, end);
    uint32_t from = max == 0 ? SHK_DEAD : shk_automaton_call(c->a, other, behind);
    bool may_end = n > 0 || min == 0;
    const char **names = shk_arena_alloc(c->places, n, sizeof *names), *name;
    if (!names) return shk_compiler_no_memory(c), SHK_DEAD;
    json_object_foreach(properties, name, schema) names[--i] = name;
    for (i = 0; i < n && !c->status; i++) {
        shk_buffer key = { 0 };
        const shk_place *at = shk_place_key(c, shk_place_key(c, place, "properties"), names[i]);
        shk_write_string(c, &key, names[i], strlen(names[i]));
        uint32_t rule = shk_compiler_rule(c, json_object_get(properties, names[i]), at);
        uint32_t member = shk_automaton_text(c->a, key.data, key.n, member_value(c, rule, behind));
        bool required = json_object_get(needed, names[i]);
        shk_buffer_free(&key);
        may_end = may_end && !required;
        from = required ? member : shk_automaton_split(c->a, member, from);
        behind = shk_automaton_split(c->a, text(c, ",", space(c, from)), may_end ? end : SHK_DEAD);
    }
    uint32_t inside = shk_automaton_split(c->a, space(c, from), may_end ? text(c, "}", SHK_RETURN) : SHK_DEAD);
    return nested(c, text(c, "{", inside));
}

/* ---- arrays ---- */

/* From the last of the items that have a schema of their own, as above. */
static uint32_t array_rule(shk_compiler *c, const json_t *plain, const shk_place *place) {
    const json_t *prefix = json_object_get(plain, "prefixItems"), *items = json_object_get(plain, "items");
    uint32_t min = count_of(plain, "minItems", 0), max = count_of(plain, "maxItems", SHK_MANY);
    uint32_t own = (uint32_t)json_array_size(prefix);
    uint32_t end = space(c, text(c, "]", SHK_RETURN)), rule = prefix ? SHK_DEAD : c->any;
    if (items) rule = shk_compiler_rule(c, items, shk_place_key(c, place, "items"));
    if (min > max) return SHK_DEAD;
    if (own > max) own = max;
    uint32_t item = shk_automaton_call(c->a, rule, SHK_RETURN), one_more = text(c, ",", space(c, item));
    uint32_t fixed = own ? own : 1; /* items that the loop does not make */
    uint32_t behind = shk_automaton_loop(c->a, one_more, min > fixed ? min - fixed : 0,
                                         max == SHK_MANY ? max : max > fixed ? max - fixed : 0, end);
    uint32_t from = own || max == 0 ? SHK_DEAD : shk_automaton_call(c->a, rule, behind);
    for (uint32_t i = own; i-- > 0 && !c->status;) {
        const shk_place *at = shk_place_index(c, shk_place_key(c, place, "prefixItems"), i);
        from = shk_automaton_call(c->a, shk_compiler_rule(c, json_array_get(prefix, i), at), behind);
        behind = shk_automaton_split(c->a, text(c, ",", space(c, from)), i >= min ? end : SHK_DEAD);
    }
    uint32_t inside = shk_automaton_split(c->a, space(c, from), min == 0 ? text(c, "]", SHK_RETURN) : SHK_DEAD);
    return nested(c, text(c, "[", inside));
}

/* ---- all types ---- */

/* Where no type is named, the keywords name it: a schema with properties is one of an object. */
static unsigned implied_types(const json_t *plain) {
    static const struct {
        const char *key;
        unsigned type;
    } implied[] = {
        { "properties", SHK_TYPE_OBJECT },    { "required", SHK_TYPE_OBJECT },      { "additionalProperties", SHK_TYPE_OBJECT },
        { "propertyNames", SHK_TYPE_OBJECT }, { "minProperties", SHK_TYPE_OBJECT }, { "maxProperties", SHK_TYPE_OBJECT },
        { "patternProperties", SHK_TYPE_OBJECT }, { "items", SHK_TYPE_ARRAY },      { "prefixItems", SHK_TYPE_ARRAY },
        { "minItems", SHK_TYPE_ARRAY },       { "maxItems", SHK_TYPE_ARRAY },       { "minLength", SHK_TYPE_STRING },
        { "maxLength", SHK_TYPE_STRING },     { "pattern", SHK_TYPE_STRING },       { "format", SHK_TYPE_STRING },
        { "minimum", SHK_TYPE_NUMBER },       { "maximum", SHK_TYPE_NUMBER },       { "exclusiveMinimum", SHK_TYPE_NUMBER },
        { "exclusiveMaximum", SHK_TYPE_NUMBER }, { "multipleOf", SHK_TYPE_NUMBER },
    };
    unsigned types = 0;
    for (size_t i = 0; i < sizeof implied / sizeof *implied; i++)
        if (json_object_get(plain, implied[i].key)) types |= implied[i].type;
    return types ? types : SHK_TYPE_ALL;
}

static unsigned type_of(const json_t *v) {
    double x = json_number_value(v);
    switch (json_typeof(v)) {
    case JSON_OBJECT: return SHK_TYPE_OBJECT;
    case JSON_ARRAY: return SHK_TYPE_ARRAY;
    case JSON_STRING: return SHK_TYPE_STRING;
    case JSON_INTEGER: return SHK_TYPE_NUMBER | SHK_TYPE_INTEGER;
    case JSON_REAL: return SHK_TYPE_NUMBER | (x == floor(x) ? SHK_TYPE_INTEGER : 0u);
    case JSON_NULL: return SHK_TYPE_NULL;
    default: return SHK_TYPE_BOOLEAN;
    }
}

static uint32_t values_rule(shk_compiler *c, const json_t *values, unsigned types, const shk_place *place) {
    json_t *fitting = shk_compiler_own(c, json_array());
    for (size_t i = 0; i < json_array_size(values) && fitting; i++)
        if (type_of(json_array_get(values, i)) & types) shk_compiler_append(c, fitting, json_array_get(values, i));
    return fitting ? shk_literals(c, fitting, place, SHK_RETURN) : SHK_DEAD;
}

uint32_t shk_plain_rule(shk_compiler *c, const json_t *plain, const shk_place *place) {
    const json_t *type = json_object_get(plain, "type"), *values = json_object_get(plain, "enum");
    if (!c->character) make_characters(c);
    if (values) return values_rule(c, values, type ? shk_types(type) : SHK_TYPE_ALL, place);
    unsigned types = type ? shk_types(type) : implied_types(plain);
    uint32_t start = SHK_DEAD;
    if (types & SHK_TYPE_NULL) start = text(c, "null", SHK_RETURN);
    if (types & SHK_TYPE_BOOLEAN) start = shk_automaton_split(c->a, start, text(c, "true", SHK_RETURN));
    if (types & SHK_TYPE_BOOLEAN) start = shk_automaton_split(c->a, start, text(c, "false", SHK_RETURN));
    if (types & (SHK_TYPE_NUMBER | SHK_TYPE_INTEGER))
        start = shk_automaton_split(c->a, start, number_rule(c, plain, !(types & SHK_TYPE_NUMBER), place));
    if (types & SHK_TYPE_STRING) start = shk_automaton_split(c->a, start, string_rule(c, plain, place));
    if (types & SHK_TYPE_ARRAY) start = shk_automaton_split(c->a, start, array_rule(c, plain, place));
    if (types & SHK_TYPE_OBJECT) start = shk_automaton_split(c->a, start, object_rule(c, plain, place));
    return start;
}
