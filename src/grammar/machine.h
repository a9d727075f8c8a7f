/* Runs an automaton over bytes: the set of all places where it can be after them. A place is a node that takes a byte, and a stack
 * of frames: what comes after the rules that it is in. Equal stacks are one. */
#ifndef SHK_GRAMMAR_MACHINE_H
#define SHK_GRAMMAR_MACHINE_H

#include "grammar/automaton.h"

typedef struct shk_frame {
    uint32_t below;      /* a frame made earlier; 0 is the bottom of every stack */
    uint32_t node;       /* where the return goes: what follows a call, or the loop itself */
    uint32_t need, room; /* of a loop: how often it must and may still go round then; SHK_MANY stays as it is */
    uint16_t depth;      /* calls that nest, from the bottom up */
    uint16_t loops;      /* 1: a loop has made it, which the return goes on with; 0: a call */
} shk_frame;

typedef struct shk_config {
    uint32_t node, frame;
} shk_config;

typedef struct shk_set {
    uint32_t first, n; /* the machine's configs [first, first + n) */
    bool ended;        /* the bottom's rule can end here */
} shk_set;

typedef struct shk_machine {
    const shk_automaton *a;
    uint32_t limit;      /* nesting that the text may still have above the bottom */
    shk_frame *frames;   /* [n_frames] */
    shk_config *configs; /* [n_configs]: sets, one after the other */
    struct shk_item *todo;
    uint32_t n_frames, frames_room, n_configs, configs_room, n_todo, todo_room;
    struct shk_seen *seen; /* a hash table of what the set being built has already met, and one of the frames */
    uint32_t *index;
    uint32_t seen_size, n_seen, index_size, round;
    uint32_t *map; /* [map_room] of frames, while a set is copied */
    uint32_t map_room;
    uint64_t work;       /* steps that may still be taken before it is SHK_E_LIMIT */
    shk_status status;   /* of everything since shk_machine_clear: the first failure stays */
} shk_machine;

void shk_machine_free(shk_machine *m); /* a zeroed one is allowed */

/* Back to no frames but the bottom and no sets. What was allocated is kept. */
void shk_machine_clear(shk_machine *m, const shk_automaton *a, uint32_t limit, uint64_t work);

/* The frame with these values, which is made if there is none. */
uint32_t shk_machine_frame(shk_machine *m, shk_frame f);

/* The set of places that a rule's start, or the return to a frame, leads to before the next byte. */
shk_set shk_machine_enter(shk_machine *m, uint32_t node);
shk_set shk_machine_resume(shk_machine *m, uint32_t frame);
/* The set after one byte; empty and not ended: there is none. */
shk_set shk_machine_step(shk_machine *m, shk_set s, uint8_t byte);

/* The frame that all stacks of a set have in common and what happens inside of whose call depends on nothing below it: the highest
 * such one that no loop has made. */
uint32_t shk_machine_base(const shk_machine *m, shk_set s);

/* Copies a set with its stacks as far as they lie above `base`, which becomes the bottom. Counts above `most` become SHK_MANY: for
 * texts of at most that many bytes it is the same. */
shk_set shk_machine_copy(shk_machine *to, shk_machine *from, shk_set s, uint32_t base, uint32_t most);

static inline bool shk_set_alive(shk_set s) { return s.n > 0 || s.ended; }

#endif
