/* A set of texts as a pushdown automaton over bytes. Nodes are kept in one array and name each other by index; two of them exist
 * from the start. A rule is what a call goes into and a return ends.
 *
 * Fragments are built from their end: every function takes the node that comes next and gives the one that comes first. */
#ifndef SHK_GRAMMAR_AUTOMATON_H
#define SHK_GRAMMAR_AUTOMATON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

typedef enum shk_node_kind {
    SHK_NODE_DEAD,   /* no text */
    SHK_NODE_RETURN, /* to where the rule was called */
    SHK_NODE_RANGE,  /* a byte from lo to hi, then next */
    SHK_NODE_SPLIT,  /* next or other */
    SHK_NODE_CALL,   /* the rule that begins at other, then next */
    SHK_NODE_LOOP    /* the rule that begins at other, min to max times, then next */
} shk_node_kind;

enum {
    SHK_DEAD = 0, /* the nodes that exist from the start */
    SHK_RETURN = 1,
    SHK_NEVER = UINT16_MAX,
    SHK_MAX_NODES = 1 << 18,
    SHK_MAX_DEPTH = 128 /* of objects and arrays in each other, in any text */
};

#define SHK_MANY UINT32_MAX /* of a count: more than there will be */

typedef struct shk_node {
    uint8_t kind;
    uint8_t lo, hi;
    uint8_t nests;   /* of a call, 0 or 1: its rule is an object's or array's */
    uint16_t height; /* how deep objects and arrays must at least still go until the rule's end; SHK_NEVER: it has none */
    uint32_t next, other;
    uint32_t min, max; /* of a loop; a max of SHK_MANY: no bound */
} shk_node;

typedef struct shk_automaton {
    shk_node *nodes; /* [n] */
    uint32_t n, capacity;
    uint32_t start;  /* of the rule that is the whole text */
    uint16_t height; /* the greatest of those that are not SHK_NEVER */
    shk_status status; /* of adding nodes: the first failure stays, and nodes are then SHK_DEAD */
} shk_automaton;

shk_status shk_automaton_init(shk_automaton *a, shk_error *err);
void shk_automaton_free(shk_automaton *a); /* a zeroed one is allowed */

uint32_t shk_automaton_add(shk_automaton *a, shk_node node);
uint32_t shk_automaton_range(shk_automaton *a, unsigned lo, unsigned hi, uint32_t next);
uint32_t shk_automaton_split(shk_automaton *a, uint32_t one, uint32_t two);
uint32_t shk_automaton_text(shk_automaton *a, const char *text, size_t n, uint32_t next);
uint32_t shk_automaton_call(shk_automaton *a, uint32_t rule, uint32_t next);
uint32_t shk_automaton_loop(shk_automaton *a, uint32_t rule, uint32_t min, uint32_t max, uint32_t next);

/* A node for a fragment that is still to be built, so that others can refer to it. */
uint32_t shk_automaton_reserve(shk_automaton *a);
void shk_automaton_become(shk_automaton *a, uint32_t reserved, uint32_t node);

/* Code points [lo, hi] as they stand in a JSON string: UTF-8, or what has to be escaped as its shortest escape. Surrogates, and
 * control characters without such an escape, are left out. */
uint32_t shk_automaton_chars(shk_automaton *a, uint32_t lo, uint32_t hi, uint32_t next);

/* After the last node, with `start` set: fills in heights and checks that every path through rules consumes bytes.
 * SHK_E_UNSUPPORTED: there is no text, or none within SHK_MAX_DEPTH. */
shk_status shk_automaton_finish(shk_automaton *a, shk_error *err);

#endif
