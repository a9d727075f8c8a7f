/* JSON output. */
#ifndef PROGRAMS_JSON_OUTPUT_H
#define PROGRAMS_JSON_OUTPUT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* A string of any n bytes: each byte that is part of no UTF-8 character becomes U+FFFD. NULL: no memory. */
json_t *json_text(const char *text, size_t n);
json_t *json_ids(const int32_t *ids, size_t n);

/* To standard output on one line; releases j. Returns EXIT_SUCCESS, or EXIT_FAILURE after saying so (j may be NULL). */
int put_json(json_t *j);

#endif
