/* Several schemas that must all be true, made one. */
#include <math.h>
#include <string.h>

#include "grammar/schema.h"

enum { MAX_GATHER = 64 };

typedef enum shape { ANYTHING, BOOLEAN, COUNT, NUMBER, LIMIT, STRING, LIST, OBJECT, SCHEMA, TYPE, ITEMS } shape;
typedef enum action {
    IGNORED,   /* restricts nothing */
    LEAST,     /* the greater of two holds */
    MOST,      /* the smaller */
    EQUAL,     /* two must be equal */
    BOTH,      /* a schema: both must be true */
    UNITED,    /* a list: all that is in either */
    APART      /* has its own function below */
} action;

static const struct keyword {
    const char *name;
    shape shape;
    action action;
} keywords[] = {
    { "type", TYPE, APART },           { "enum", LIST, APART },            { "const", ANYTHING, APART },
    { "properties", OBJECT, APART },   { "additionalProperties", SCHEMA, APART },
    { "required", LIST, UNITED },      { "propertyNames", SCHEMA, BOTH },  { "patternProperties", OBJECT, EQUAL },
    { "minProperties", COUNT, LEAST }, { "maxProperties", COUNT, MOST },
    { "items", ITEMS, APART },         { "prefixItems", LIST, APART },     { "additionalItems", SCHEMA, APART },
    { "minItems", COUNT, LEAST },      { "maxItems", COUNT, MOST },        { "uniqueItems", BOOLEAN, APART },
    { "minLength", COUNT, LEAST },     { "maxLength", COUNT, MOST },
    { "pattern", STRING, EQUAL },      { "format", STRING, EQUAL },
    { "minimum", NUMBER, LEAST },      { "maximum", NUMBER, MOST },        { "multipleOf", NUMBER, EQUAL },
    { "exclusiveMinimum", LIMIT, APART }, { "exclusiveMaximum", LIMIT, APART },
    { "nullable", BOOLEAN, APART },    { "$ref", STRING, APART },
    { "allOf", LIST, APART },          { "anyOf", LIST, APART },           { "oneOf", LIST, APART },
    { "$schema", ANYTHING, IGNORED },  { "$id", ANYTHING, IGNORED },       { "id", ANYTHING, IGNORED },
    { "$comment", ANYTHING, IGNORED }, { "$anchor", ANYTHING, IGNORED },   { "$vocabulary", ANYTHING, IGNORED },
    { "$defs", OBJECT, IGNORED },      { "definitions", OBJECT, IGNORED }, { "title", ANYTHING, IGNORED },
    { "description", ANYTHING, IGNORED }, { "default", ANYTHING, IGNORED }, { "examples", ANYTHING, IGNORED },
    { "example", ANYTHING, IGNORED },  { "deprecated", ANYTHING, IGNORED }, { "readOnly", ANYTHING, IGNORED },
    { "writeOnly", ANYTHING, IGNORED }, { "contentEncoding", ANYTHING, IGNORED }, { "contentMediaType", ANYTHING, IGNORED },
    { "contentSchema", ANYTHING, IGNORED }, { "discriminator", ANYTHING, IGNORED }, { "externalDocs", ANYTHING, IGNORED },
    { "xml", ANYTHING, IGNORED },      { "propertyOrdering", ANYTHING, IGNORED },
};

static const struct {
    const char *name;
    unsigned bit;
} types[] = {
    { "null", SHK_TYPE_NULL },     { "boolean", SHK_TYPE_BOOLEAN }, { "object", SHK_TYPE_OBJECT },  { "array", SHK_TYPE_ARRAY },
    { "number", SHK_TYPE_NUMBER }, { "string", SHK_TYPE_STRING },   { "integer", SHK_TYPE_INTEGER },
};
enum { TYPES = sizeof types / sizeof *types };

static const struct keyword *keyword_find(const char *name) {
    static const struct keyword extension = { "x-", ANYTHING, IGNORED };
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (!strcmp(keywords[i].name, name)) return &keywords[i];
    return strncmp(name, "x-", 2) ? NULL : &extension;
}

bool shk_schema_is_true(const json_t *schema) {
    return json_is_true(schema) || (json_is_object(schema) && json_object_size(schema) == 0);
}

const char *shk_schema_ref(const json_t *schema) {
    const char *key, *ref = NULL;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        const struct keyword *k = keyword_find(key);
        if (!k) return NULL;
        if (!strcmp(key, "$ref")) ref = json_string_value(value);
        else if (k->action != IGNORED) return NULL;
    }
    return ref;
}

/* ---- the shapes of keywords' values ---- */

static unsigned type_bit(const json_t *name) {
    for (size_t i = 0; i < TYPES && json_is_string(name); i++)
        if (!strcmp(types[i].name, json_string_value(name))) return types[i].bit;
    return 0;
}

static bool is_schema(const json_t *v) { return json_is_object(v) || json_is_boolean(v); }

static bool is_count(const json_t *v) {
    double x = json_number_value(v);
    return json_is_number(v) && x >= 0 && x == floor(x);
}

static bool is_type(const json_t *v) {
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!type_bit(json_array_get(v, i))) return false;
    return json_array_size(v) > 0 || type_bit(v);
}

static bool fits(const json_t *v, shape s) {
    switch (s) {
    case BOOLEAN: return json_is_boolean(v);
    case COUNT: return is_count(v);
    case NUMBER: return json_is_number(v);
    case LIMIT: return json_is_number(v) || json_is_boolean(v);
    case STRING: return json_is_string(v);
    case LIST: return json_is_array(v);
    case OBJECT: return json_is_object(v);
    case SCHEMA: return is_schema(v);
    case TYPE: return is_type(v);
    case ITEMS: return is_schema(v) || json_is_array(v);
    default: return true;
    }
}

static bool check(shk_compiler *c, const json_t *schema, const shk_place *place) {
    static const char *const wanted[] = {
        [BOOLEAN] = "true or false", [COUNT] = "a whole number that is not negative", [NUMBER] = "a number",
        [LIMIT] = "a number", [STRING] = "a string", [LIST] = "an array", [OBJECT] = "an object", [SCHEMA] = "a schema",
        [TYPE] = "null, boolean, object, array, number, string or integer, or an array of those", [ITEMS] = "a schema"
    };
    const char *key;
    json_t *value;
    if (!json_is_object(schema)) shk_compiler_fail(c, SHK_E_FORMAT, place, NULL, "it must be a schema: an object, true or false");
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        const struct keyword *k = keyword_find(key);
        if (!k) shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, key, "the keyword is not supported");
        else if (!fits(value, k->shape)) shk_compiler_fail(c, SHK_E_FORMAT, place, key, "it must be %s", wanted[k->shape]);
        if (c->status) break;
    }
    return !c->status;
}

/* ---- types ---- */

unsigned shk_types(const json_t *list) {
    unsigned bits = 0;
    for (size_t i = 0; i < json_array_size(list); i++) bits |= type_bit(json_array_get(list, i));
    return bits | type_bit(list);
}

static void conjoin_types(shk_compiler *c, json_t *plain, const json_t *schema) {
    const json_t *mine = json_object_get(plain, "type"), *type = json_object_get(schema, "type");
    if (!type) return;
    unsigned a = mine ? shk_types(mine) : SHK_TYPE_ALL | SHK_TYPE_INTEGER, b = shk_types(type);
    if (json_is_true(json_object_get(schema, "nullable"))) b |= SHK_TYPE_NULL;
    if (a & SHK_TYPE_NUMBER) a |= SHK_TYPE_INTEGER;
    if (b & SHK_TYPE_NUMBER) b |= SHK_TYPE_INTEGER;
    json_t *list = shk_compiler_own(c, json_array());
    for (size_t i = 0; i < TYPES && list; i++) {
        bool whole = types[i].bit == SHK_TYPE_INTEGER && (a & b & SHK_TYPE_NUMBER);
        if ((a & b & types[i].bit) && !whole) shk_compiler_append(c, list, shk_compiler_own(c, json_string(types[i].name)));
    }
    shk_compiler_set(c, plain, "type", list);
}

/* ---- enum and const ---- */

static bool has_value(const json_t *list, const json_t *value) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (json_is_number(v) && json_is_number(value) ? json_number_value(v) == json_number_value(value) : json_equal(v, value))
            return true;
    }
    return false;
}

static void conjoin_values(shk_compiler *c, json_t *plain, const json_t *list) {
    const json_t *mine = json_object_get(plain, "enum");
    if (!list || !mine) {
        if (list) shk_compiler_set(c, plain, "enum", list);
        return;
    }
    json_t *both = shk_compiler_own(c, json_array());
    shk_compiler_spend(c, json_array_size(mine) * json_array_size(list));
    for (size_t i = 0; i < json_array_size(mine) && both && !c->status; i++)
        if (has_value(list, json_array_get(mine, i))) shk_compiler_append(c, both, json_array_get(mine, i));
    shk_compiler_set(c, plain, "enum", both);
}

static void conjoin_const(shk_compiler *c, json_t *plain, const json_t *value) {
    json_t *list = value ? shk_compiler_own(c, json_array()) : NULL;
    if (!list) return;
    shk_compiler_append(c, list, value);
    conjoin_values(c, plain, list);
}

/* ---- properties and items ---- */

/* A schema that is true where both are. NULL is true. Whether two that are not one and the same are equal is not looked at. */
static const json_t *both(shk_compiler *c, const json_t *a, const json_t *b) {
    if (!a || shk_schema_is_true(a) || json_is_false(b)) return b ? b : a;
    if (!b || shk_schema_is_true(b) || json_is_false(a) || a == b) return a;
    json_t *list = shk_compiler_own(c, json_array()), *schema = list ? shk_compiler_own(c, json_object()) : NULL;
    if (!schema) return a;
    shk_compiler_append(c, list, a);
    shk_compiler_append(c, list, b);
    shk_compiler_set(c, schema, "allOf", list);
    return schema;
}

/* What a schema says of a property that it does not list, its additionalProperties say. */
static void conjoin_properties(shk_compiler *c, json_t *plain, const json_t *schema) {
    const json_t *mine = json_object_get(plain, "properties"), *other = json_object_get(schema, "properties");
    const json_t *my_rest = json_object_get(plain, "additionalProperties");
    const json_t *rest = json_object_get(schema, "additionalProperties");
    if (!other && !rest) return;
    json_t *all = other || mine ? shk_compiler_own(c, json_object()) : NULL, *value;
    const char *name;
    json_object_foreach((json_t *)(uintptr_t)mine, name, value) {
        const json_t *listed = json_object_get(other, name);
        if (all) shk_compiler_set(c, all, name, both(c, value, listed ? listed : rest));
    }
    json_object_foreach((json_t *)(uintptr_t)other, name, value)
        if (all && !json_object_get(mine, name)) shk_compiler_set(c, all, name, both(c, my_rest, value));
    if (all) shk_compiler_set(c, plain, "properties", all);
    if (my_rest || rest) shk_compiler_set(c, plain, "additionalProperties", both(c, my_rest, rest));
}

/* An array of schemas in items is what older drafts call prefixItems; additionalItems are the items behind it. */
static void conjoin_items(shk_compiler *c, json_t *plain, const json_t *schema, const shk_place *place) {
    const json_t *items = json_object_get(schema, "items"), *prefix = json_object_get(schema, "prefixItems");
    const json_t *mine = json_object_get(plain, "items"), *my_prefix = json_object_get(plain, "prefixItems");
    const char *named = prefix ? "prefixItems" : "items";
    if (json_is_array(items)) prefix = items, items = json_object_get(schema, "additionalItems");
    if (!items && !prefix) return;
    bool tuples = prefix || my_prefix, first = !mine && !my_prefix;
    if (tuples && !first && !(prefix == my_prefix && items == mine)) {
        shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, named, "it meets other items of the same array");
        return;
    }
    if (prefix) shk_compiler_set(c, plain, "prefixItems", prefix);
    if (items) shk_compiler_set(c, plain, "items", both(c, mine, items));
}

/* ---- bounds ---- */

/* Draft 4 has true for "the minimum itself is not allowed". */
static void conjoin_limit(shk_compiler *c, json_t *plain, const json_t *schema, const char *key, const char *inclusive, action a) {
    const json_t *value = json_object_get(schema, key), *mine = json_object_get(plain, key);
    if (json_is_boolean(value)) value = json_is_true(value) ? json_object_get(schema, inclusive) : NULL;
    if (!value) return;
    double x = json_number_value(value), y = json_number_value(mine);
    if (!mine || (a == LEAST ? x > y : x < y)) shk_compiler_set(c, plain, key, value);
}

static void conjoin_other(shk_compiler *c, json_t *plain, const struct keyword *k, const json_t *value, const shk_place *place) {
    const json_t *mine = json_object_get(plain, k->name);
    double x = json_number_value(value), y = json_number_value(mine);
    switch (k->action) {
    case LEAST:
        if (mine && x <= y) value = mine;
        break;
    case MOST:
        if (mine && x >= y) value = mine;
        break;
    case EQUAL:
        if (mine && mine != value && !(json_is_string(mine) && json_equal(mine, value)) && !(json_is_number(mine) && x == y))
            shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, k->name, "it meets another one of the same value");
        break;
    case BOTH: value = both(c, mine, value); break;
    case UNITED: {
        json_t *all = shk_compiler_own(c, mine ? json_copy((json_t *)(uintptr_t)mine) : json_array());
        for (size_t i = 0; i < json_array_size(value) && all; i++) shk_compiler_append(c, all, json_array_get(value, i));
        value = all;
        break;
    }
    default: return;
    }
    if (value) shk_compiler_set(c, plain, k->name, value);
}

/* ---- gathering ---- */

static void gather(shk_compiler *c, shk_gathered *g, const json_t *schema, const shk_place *place, int depth) {
    shk_compiler_spend(c, 1 + json_object_size(schema));
    if (shk_schema_is_true(schema) || c->status) return;
    if (depth > MAX_GATHER) {
        shk_compiler_fail(c, SHK_E_LIMIT, place, NULL, "allOf and $ref lead to each other too often, or without end");
        return;
    }
    if (json_is_false(schema)) { /* of no type */
        shk_compiler_set(c, g->plain, "type", shk_compiler_own(c, json_array()));
        return;
    }
    if (!check(c, schema, place)) return;
    conjoin_types(c, g->plain, schema);
    conjoin_values(c, g->plain, json_object_get(schema, "enum"));
    conjoin_const(c, g->plain, json_object_get(schema, "const"));
    conjoin_properties(c, g->plain, schema);
    conjoin_items(c, g->plain, schema, place);
    conjoin_limit(c, g->plain, schema, "exclusiveMinimum", "minimum", LEAST);
    conjoin_limit(c, g->plain, schema, "exclusiveMaximum", "maximum", MOST);
    if (json_is_true(json_object_get(schema, "uniqueItems")))
        shk_compiler_fail(c, SHK_E_UNSUPPORTED, place, "uniqueItems", "the keyword is not supported");
    const char *key, *ref = json_string_value(json_object_get(schema, "$ref"));
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) conjoin_other(c, g->plain, keyword_find(key), value, place);
    for (size_t i = 0; i < 2; i++)
        if ((value = json_object_get(schema, i ? "oneOf" : "anyOf"))) shk_compiler_append(c, g->choices, value);
    const json_t *all = json_object_get(schema, "allOf"), *target = ref ? shk_compiler_resolve(c, ref, place) : NULL;
    for (size_t i = 0; i < json_array_size(all); i++)
        gather(c, g, json_array_get(all, i), shk_place_index(c, shk_place_key(c, place, "allOf"), i), depth + 1);
    if (target) gather(c, g, target, place, depth + 1);
}

shk_gathered shk_gather(shk_compiler *c, const json_t *schema, const shk_place *place) {
    shk_gathered g = { shk_compiler_own(c, json_object()), shk_compiler_own(c, json_array()) };
    if (!c->status) gather(c, &g, schema, place, 0);
    return g;
}
