/* Numbers between bounds, as regular expressions over their decimal digits. */
#ifndef SHK_GRAMMAR_NUMBERS_H
#define SHK_GRAMMAR_NUMBERS_H

#include <jansson.h>

#include "mem.h"

typedef struct shk_limit {
    const json_t *value; /* a number; NULL: none */
    bool strict;         /* it is itself not allowed */
} shk_limit;

/* Appends the pattern of the JSON numbers within the limits. Without any, exponents are allowed, to what a double can hold; else
 * digits alone. Up to 18 before the point and some 24 behind it. *none: there is no such number, and nothing was appended.
 * SHK_E_UNSUPPORTED: a limit has too many digits. */
shk_status shk_number_pattern(shk_buffer *out, bool *none, bool integer, shk_limit min, shk_limit max, shk_error *err);

/* Appends a number as it is written shortest. false: out of memory. */
bool shk_number_write(shk_buffer *out, const json_t *number);

#endif
