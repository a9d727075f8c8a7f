/* Regular expressions as JSON schemas have them (ECMA-262), as far as they describe a regular set: literals, classes, groups,
 * alternatives, counted repetition; ^ and $ at the ends of the whole or of its alternatives. */
#ifndef SHK_GRAMMAR_REGEX_H
#define SHK_GRAMMAR_REGEX_H

#include "grammar/automaton.h"

typedef struct shk_bounds {
    uint32_t min, max; /* characters; max SHK_MANY: no bound */
} shk_bounds;

enum { SHK_REGEX_WHOLE = 1 /* it stands for the whole text, as if between ^ and $; else what is not anchored is found anywhere */ };

/* The fragment of the texts that match, of a length within `bounds`, before `next`. Characters stand as in a JSON string.
 * SHK_E_FORMAT: it is no regular expression; SHK_E_UNSUPPORTED: one that is not supported, or whose lengths cannot be bounded so.
 * Messages do not name the schema. */
shk_status shk_regex_compile(shk_automaton *a, uint32_t *start, const char *pattern, size_t n, unsigned flags, shk_bounds bounds,
                             uint32_t next, shk_error *err);

#endif
