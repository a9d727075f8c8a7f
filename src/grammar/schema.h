/* From a JSON schema to an automaton, in three steps: what a schema says in several places (allOf, $ref, anyOf beside keywords) is
 * gathered into plain schemas (conjoin.c); a plain schema becomes a rule (values.c, literals.c), with rules for the schemas inside
 * it; those wait in a list, so that neither depth nor reference to what is around them is of any concern (schema.c). */
#ifndef SHK_GRAMMAR_SCHEMA_H
#define SHK_GRAMMAR_SCHEMA_H

#include <jansson.h>

#include "grammar/automaton.h"
#include "mem.h"

enum {
    SHK_TYPE_NULL = 1,
    SHK_TYPE_BOOLEAN = 2,
    SHK_TYPE_OBJECT = 4,
    SHK_TYPE_ARRAY = 8,
    SHK_TYPE_NUMBER = 16,
    SHK_TYPE_STRING = 32,
    SHK_TYPE_INTEGER = 64,
    SHK_TYPE_ALL = 63 /* an integer is a number */
};

/* Where a schema stands, for messages: #/properties/name. */
typedef struct shk_place {
    const struct shk_place *up; /* NULL: it is the root */
    const char *key;            /* NULL: the item `index` */
    size_t index;
} shk_place;

typedef struct shk_job { /* a rule that is still to be built */
    const json_t *schema;
    const shk_place *place;
    uint32_t entry;
} shk_job;

typedef struct shk_choice { /* values of which those are still to be found that a rule takes */
    const json_t *values;
    const shk_place *place;
    uint32_t rule, entry;
} shk_choice;

typedef struct shk_compiler {
    shk_automaton *a;
    const json_t *root;
    shk_arena *places;
    json_t *made;     /* an array: owns schemas that are put together here */
    json_t *refs;     /* an object: the entries of rules by the references to them */
    shk_job *jobs;    /* [n_jobs] */
    shk_choice *choices; /* [n_choices] */
    size_t n_jobs, jobs_room, n_choices, choices_room;
    size_t work;      /* spent on putting schemas together */
    uint32_t any;     /* the rule of all values */
    uint32_t character, blank, tab; /* rules of one character: of a string, and of the white space between values */
    shk_error *err;
    shk_status status; /* the first failure stays */
} shk_compiler;

/* ---- schema.c ---- */

/* Fails with "schema: #/path/key: message". key may be NULL. */
void shk_compiler_fail(shk_compiler *c, shk_status status, const shk_place *place, const char *key, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void shk_compiler_no_memory(shk_compiler *c);
/* Puts the path before the message that is in *c->err already. */
void shk_compiler_fail_in(shk_compiler *c, shk_status status, const shk_place *place, const char *key);

const shk_place *shk_place_key(shk_compiler *c, const shk_place *up, const char *key);
const shk_place *shk_place_index(shk_compiler *c, const shk_place *up, size_t index);

/* The rule of a schema; what is wrong with that will turn up later. */
uint32_t shk_compiler_rule(shk_compiler *c, const json_t *schema, const shk_place *place);
/* What a reference names; NULL: it has failed. */
const json_t *shk_compiler_resolve(shk_compiler *c, const char *ref, const shk_place *place);

void shk_compiler_spend(shk_compiler *c, size_t work); /* fails after too much of it */
/* json_object_set and json_array_append, but for how they fail. The value is not taken over. */
void shk_compiler_set(shk_compiler *c, json_t *object, const char *key, const json_t *value);
void shk_compiler_append(shk_compiler *c, json_t *array, const json_t *value);
/* Hands a new value to the compiler, which frees it in the end; returns it, or NULL. */
json_t *shk_compiler_own(shk_compiler *c, json_t *value);

/* ---- conjoin.c ---- */

/* All that must be true of a value at once. */
typedef struct shk_gathered {
    json_t *plain;   /* an object: no $ref, allOf, anyOf, oneOf, const or annotations are left; type is a list */
    json_t *choices; /* an array of lists of schemas of which one must be true each */
} shk_gathered;

shk_gathered shk_gather(shk_compiler *c, const json_t *schema, const shk_place *place);
unsigned shk_types(const json_t *list); /* SHK_TYPE_ bits */
bool shk_schema_is_true(const json_t *schema); /* true or {} */
/* The reference, if a schema is that and annotations alone; else NULL. */
const char *shk_schema_ref(const json_t *schema);

/* ---- values.c: fragments that end in a return ---- */

uint32_t shk_plain_rule(shk_compiler *c, const json_t *plain, const shk_place *place);

/* ---- literals.c ---- */

/* The text of a value as it is written shortest, members in their order. */
void shk_write_value(shk_compiler *c, shk_buffer *out, const json_t *value, const shk_place *place);
void shk_write_string(shk_compiler *c, shk_buffer *out, const char *s, size_t n);

/* The values' texts, before `next`. */
uint32_t shk_literals(shk_compiler *c, const json_t *values, const shk_place *place, uint32_t next);
/* Those among the values that a rule takes; all rules must be there. */
json_t *shk_values_of_rule(shk_compiler *c, const json_t *values, uint32_t rule, const shk_place *place);
/* A string's characters and its closing quote, before `next`; it is none of the object's keys. */
uint32_t shk_other_key(shk_compiler *c, const json_t *object, uint32_t next);

#endif
