/* The unigram model: of all divisions of a text into pieces the one with the highest sum of scores, by Viterbi's algorithm.
 * The arithmetic is SentencePiece's, down to what is a float and what a double, since ties are common. */
#include <stdlib.h>

#include "text/vocab.h"

static const float unknown_penalty = 10;

typedef struct node { /* the best division of the text up to here */
    float score;
    int32_t id;    /* its last piece; SHK_NO_ID: a character that no piece has */
    uint32_t from; /* where that begins; NOWHERE: no division reaches this place */
} node;

enum { NOWHERE = UINT32_MAX };

static void offer(node *end, double score, int32_t id, size_t from) {
    if (end->from == NOWHERE || score > (double)end->score) *end = (node){ (float)score, id, (uint32_t)from };
}

/* Offers every piece that starts at `at` to where it ends. A character that is no piece of its own is unknown. */
static void extend(const shk_tokenizer *t, const char *text, size_t n, size_t at, node *nodes) {
    size_t character = shk_utf8_length(text + at, n - at);
    bool known = false;
    const float before = nodes[at].score;
    shk_walk w = shk_prefixes_start(&t->lattice, (uint8_t)text[at]);
    while (w.lo < w.hi) {
        int32_t id = shk_prefixes_here(&t->lattice, &w);
        if (id != SHK_NO_ID && t->type[id] != SHK_PIECE_UNUSED) {
            /* a user piece beats all else */
            double score = t->type[id] == SHK_PIECE_USER ? (float)w.depth * t->most - 0.1 : t->score[id];
            offer(&nodes[at + w.depth], score + before, id, at);
            known = known || w.depth == character;
        }
        if (at + w.depth == n || !shk_prefixes_step(&t->lattice, &w, (uint8_t)text[at + w.depth])) break;
    }
    if (!known) offer(&nodes[at + character], (t->least - unknown_penalty) + before, SHK_NO_ID, at);
}

void shk_unigram(const shk_tokenizer *t, const char *text, size_t n, shk_ids *ids) {
    node *nodes = shk_calloc(n + 1, sizeof *nodes);
    if (!nodes) {
        ids->failed = true;
        return;
    }
    for (size_t i = 1; i <= n; i++) nodes[i].from = NOWHERE;
    for (size_t at = 0; at < n; at += shk_utf8_length(text + at, n - at)) extend(t, text, n, at, nodes);
    uint32_t next = 0;
    for (size_t at = n; at > 0;) { /* turns the way back into the way there: `from` becomes the end of the next piece */
        uint32_t from = nodes[at].from;
        nodes[at].from = next;
        next = (uint32_t)at;
        at = from;
    }
    for (size_t from = 0, at = next; at > 0; from = at, at = nodes[at].from) {
        if (nodes[at].id == SHK_NO_ID) shk_ids_push_unmatched(t, ids, text + from, at - from);
        else shk_ids_push(ids, nodes[at].id);
    }
    free(nodes);
}
