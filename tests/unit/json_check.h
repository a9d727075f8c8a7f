/* An independent, small checker of JSON values against schemas: the definition of each keyword, and nothing about how texts are
 * made. It knows the keywords that the tests use; a format is not looked at. */
#ifndef SHK_JSON_CHECK_H
#define SHK_JSON_CHECK_H

#include <jansson.h>
#include <math.h>
#include <regex.h>
#include <stdbool.h>
#include <stdint.h>

#include "../test.h"

static bool fits_schema(const json_t *root, const json_t *s, const json_t *v);

static inline bool is_of_type(const char *type, const json_t *v) {
    double x = json_number_value(v);
    if (!strcmp(type, "integer")) return json_is_number(v) && x == floor(x);
    return (!strcmp(type, "null") && json_is_null(v)) || (!strcmp(type, "boolean") && json_is_boolean(v)) ||
           (!strcmp(type, "object") && json_is_object(v)) || (!strcmp(type, "array") && json_is_array(v)) ||
           (!strcmp(type, "number") && json_is_number(v)) || (!strcmp(type, "string") && json_is_string(v));
}

static inline size_t characters(const char *s) {
    size_t n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static inline bool matches(const char *pattern, const char *s) {
    regex_t r;
    NEED(!regcomp(&r, pattern, REG_EXTENDED | REG_NOSUB), "%s", pattern);
    bool found = !regexec(&r, s, 0, NULL, 0);
    regfree(&r);
    return found;
}

static inline bool within(const json_t *s, const char *least, const char *most, double x) {
    const json_t *a = json_object_get(s, least), *b = json_object_get(s, most);
    return (!a || x >= json_number_value(a)) && (!b || x <= json_number_value(b));
}

static inline const json_t *find_schema(const json_t *root, const char *ref) {
    NEED(!strcmp(ref, "#") || !strncmp(ref, "#/$defs/", 8), "%s", ref);
    return ref[1] ? json_object_get(json_object_get(root, "$defs"), ref + 8) : root;
}

static inline size_t how_many_fit(const json_t *root, const json_t *list, const json_t *v) {
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++) n += fits_schema(root, json_array_get(list, i), v);
    return n;
}

static inline bool object_fits(const json_t *root, const json_t *s, const json_t *v) {
    const json_t *properties = json_object_get(s, "properties"), *required = json_object_get(s, "required");
    const json_t *rest = json_object_get(s, "additionalProperties");
    const char *key;
    json_t *member;
    for (size_t i = 0; i < json_array_size(required); i++)
        if (!json_object_get(v, json_string_value(json_array_get(required, i)))) return false;
    json_object_foreach((json_t *)(uintptr_t)v, key, member) {
        const json_t *own = json_object_get(properties, key);
        if (own ? !fits_schema(root, own, member) : rest && !fits_schema(root, rest, member)) return false;
    }
    return within(s, "minProperties", "maxProperties", (double)json_object_size(v));
}

static inline bool array_fits(const json_t *root, const json_t *s, const json_t *v) {
    const json_t *prefix = json_object_get(s, "prefixItems"), *items = json_object_get(s, "items");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *own = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (own && !fits_schema(root, own, json_array_get(v, i))) return false;
    }
    return within(s, "minItems", "maxItems", (double)json_array_size(v));
}

static bool fits_schema(const json_t *root, const json_t *s, const json_t *v) {
    if (json_is_boolean(s)) return json_is_true(s);
    const json_t *type = json_object_get(s, "type"), *list = json_object_get(s, "enum"), *one = json_object_get(s, "const"), *more;
    const char *ref = json_string_value(json_object_get(s, "$ref")), *pattern = json_string_value(json_object_get(s, "pattern"));
    bool ok = !type || json_is_string(type);
    for (size_t i = 0; i < json_array_size(type); i++) ok = ok || is_of_type(json_string_value(json_array_get(type, i)), v);
    if (json_is_string(type)) ok = is_of_type(json_string_value(type), v);
    if (list) {
        bool found = false;
        for (size_t i = 0; i < json_array_size(list); i++) found = found || json_equal(json_array_get(list, i), v);
        ok = ok && found;
    }
    if (one) ok = ok && json_equal(one, v);
    if (ref) ok = ok && fits_schema(root, find_schema(root, ref), v);
    if ((more = json_object_get(s, "allOf"))) ok = ok && how_many_fit(root, more, v) == json_array_size(more);
    if ((more = json_object_get(s, "anyOf"))) ok = ok && how_many_fit(root, more, v) > 0;
    if (json_is_object(v)) ok = ok && object_fits(root, s, v);
    if (json_is_array(v)) ok = ok && array_fits(root, s, v);
    if (json_is_string(v)) ok = ok && within(s, "minLength", "maxLength", (double)characters(json_string_value(v)));
    if (json_is_string(v) && pattern) ok = ok && matches(pattern, json_string_value(v));
    if (json_is_number(v)) ok = ok && within(s, "minimum", "maximum", json_number_value(v));
    return ok;
}

#endif
