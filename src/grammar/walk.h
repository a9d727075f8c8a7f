/* Which pieces of a vocabulary an automaton takes: a walk down their tree. Sets of places are numbered as they turn up, and what a
 * byte makes of each is computed once, so that a step of the walk is a look into a table. */
#ifndef SHK_GRAMMAR_WALK_H
#define SHK_GRAMMAR_WALK_H

#include "grammar/machine.h"
#include "text/trie.h"

typedef struct shk_walker {
    shk_machine m;       /* what the caller has put the first set into */
    shk_set *sets;       /* [n_sets]; numbers 0 and 1 are taken */
    uint16_t *rows;      /* [n_sets, 256]: 0: not computed yet; 1: no set; else its number, with bit 15 if it has ended */
    uint32_t n_sets, sets_room;
    uint32_t *index;     /* [index_size] hash table of numbers */
    uint32_t index_size;
    uint16_t *at;        /* [depth] the set at each node from the root down to where the walk is */
    uint32_t at_room;
    uint32_t *found;     /* [n_found] */
    uint32_t n_found, found_room;
    uint64_t visited;    /* nodes of the tree */
} shk_walker;

void shk_walker_free(shk_walker *w); /* a zeroed one is allowed */

/* From set `start` of w->m, at each of the nodes `from`, down: sets the bits of the pieces that it takes, in whole or until the
 * rule at the stack's bottom ends. w->found is where the latter happens, in the tree's order if `from` was. See w->m.status. */
void shk_walk(shk_walker *w, const shk_trie *t, shk_set start, const uint32_t *from, size_t n_from, uint32_t *bits);

#endif
