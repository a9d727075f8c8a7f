/* What a grammar is made of, and the masks that its matchers share. */
#ifndef SHK_GRAMMAR_GRAMMAR_H
#define SHK_GRAMMAR_GRAMMAR_H

#include "grammar/automaton.h"
#include "text/trie.h"

/* The tokens that may follow a set of places, as far as that depends on nothing below the stacks that the key spells out. */
typedef struct shk_mask {
    struct shk_mask *next;
    uint64_t hash;
    size_t n_key, n_found;
    uint32_t *key;   /* [n_key] */
    uint32_t *found; /* [n_found] nodes of the trie where the walk came to the bottom */
    uint32_t *bits;  /* a bit for each token */
} shk_mask;

/* Masks that took long to find. They stay as long as the cache, so that they can be read without its lock; when it is full,
 * nothing is added. Thread-safe. */
typedef struct shk_masks shk_masks;
shk_masks *shk_masks_new(size_t n_words); /* of bits; NULL without memory */
void shk_masks_free(shk_masks *x);        /* NULL is allowed */
const shk_mask *shk_masks_find(shk_masks *x, const uint32_t *key, size_t n_key); /* NULL: not there */
void shk_masks_add(shk_masks *x, const uint32_t *key, size_t n_key, const uint32_t *found, size_t n_found, const uint32_t *bits);

struct shk_grammar {
    const shk_tokenizer *tokenizer;
    const shk_trie *trie;
    shk_automaton automaton;
    size_t n_words; /* of a mask over the tokenizer's vocabulary */
    shk_masks *masks;
};

/* The automaton of a schema: NULL is any object. *a is zeroed; it is the caller's to free also after failure. */
shk_status shk_schema_compile(shk_automaton *a, const char *schema, shk_error *err);

#endif
