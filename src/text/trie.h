/* The pieces that text is made of as a tree over their bytes, for those who want to know which of all pieces have a property that
 * a piece has only if its beginnings have it. */
#ifndef SHK_TEXT_TRIE_H
#define SHK_TEXT_TRIE_H

#include <stdbool.h>

#include "error.h"

/* In preorder: the children of node i lie behind it, the first at i + 1, each next one where the one before says `skip`. */
typedef struct shk_trie_node {
    uint32_t skip;  /* the node behind this one's subtree */
    uint32_t first; /* pieces that end here: ids[first] up to the `first` of node i + 1 */
    uint16_t depth; /* bytes from the root */
    uint8_t byte;   /* the last of them */
} shk_trie_node;

typedef struct shk_trie {
    shk_trie_node *nodes; /* [n + 1]: the root, which is no piece, and so on; behind the last an end */
    int32_t *ids;
    uint32_t n;
    uint32_t longest; /* bytes of the longest piece */
    int32_t ends[4];  /* [n_ends] tokens that end a text */
    uint32_t n_ends;
    uint32_t opening; /* the most of the characters { and [ that a piece has */
} shk_trie;

/* Normal, user and byte pieces, but for special ids. Made by the first call and owned by the tokenizer. Thread-safe. */
shk_status shk_tokenizer_trie(const shk_tokenizer *t, const shk_trie **out, shk_error *err);
bool shk_trie_wants(const shk_tokenizer *t, int32_t id); /* whether it is a piece of the tree, unless it has no bytes */
void shk_trie_free(shk_trie *x); /* NULL is allowed */

#endif
