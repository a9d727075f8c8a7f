/* The vocabulary: filled by the readers of files, then immutable, read by the tokenizing algorithms.
 *
 * A piece is kept as the text that it stands for. Files write a space as U+2581 and a byte as "<0x0A>"; here the space is a
 * space and the byte a byte. Pieces are so matched against the text itself, a token's text is a range of memory, and a
 * U+2581 in a text is a character like any other, which no piece has and byte pieces spell. */
#ifndef SHK_TEXT_VOCAB_H
#define SHK_TEXT_VOCAB_H

#include <stdatomic.h>
#include <stdbool.h>

#include "error.h"
#include "mem.h"

/* The numbers are those of SentencePiece and of GGUF. */
typedef enum shk_piece_type {
    SHK_PIECE_NORMAL = 1,
    SHK_PIECE_UNKNOWN,
    SHK_PIECE_CONTROL, /* never made of plain text */
    SHK_PIECE_USER,    /* always made of its text, before anything else is looked at */
    SHK_PIECE_UNUSED,  /* is merged, but taken apart again where it would come out */
    SHK_PIECE_BYTE
} shk_piece_type;

typedef enum shk_algorithm {
    SHK_BPE_SCORES, /* of the pieces that two neighbours make the one with the highest score is made first */
    SHK_BPE_MERGES, /* of the pairs in a list the first is merged first */
    SHK_UNIGRAM     /* the division with the highest sum of scores */
} shk_algorithm;

enum {
    SHK_PIECE_MAX = 1024, /* bytes; bounds what one position of a text can cost */
    SHK_NO_ID = -1
};

typedef struct shk_piece_slot { /* of the hash table over pieces */
    uint32_t hash;
    uint32_t id_1; /* id + 1; 0: empty */
} shk_piece_slot;

typedef struct shk_merge { /* of the hash table over pairs */
    int32_t left, right, id;
    uint32_t rank_1; /* place in the list + 1; 0: empty */
} shk_merge;

/* Pieces in the order of their bytes, to find those that a text starts with. */
typedef struct shk_key {
    const uint8_t *p;
    uint32_t n;
    int32_t id;
} shk_key;

typedef struct shk_prefixes {
    shk_key *keys;
    size_t n;
    uint32_t first[257]; /* keys that start with byte b: [first[b], first[b + 1]) */
} shk_prefixes;

struct shk_tokenizer {
    shk_algorithm algorithm;
    int32_t n, capacity;
    shk_buffer text;           /* the pieces, one after the other */
    uint32_t *start;           /* [n + 1] where each begins */
    float *score;              /* [n] */
    uint8_t *type;             /* [n] shk_piece_type */
    int32_t byte_id[256];      /* or SHK_NO_ID */
    int32_t bos, eos, unk, pad, eot, turn_start, turn_end; /* or SHK_NO_ID */
    bool add_bos;
    bool escape;               /* files write a space as U+2581 */
    bool add_space;            /* a space is put before a text */
    bool squeeze;              /* spaces are removed at the ends of a text and made one in between */

    shk_piece_slot *slots;           /* pieces that text can turn into: normal, user, unused */
    size_t slot_mask, slot_reach;
    size_t longest;            /* bytes of the longest of these */
    uint8_t joined[8192];      /* bit 256 a + b: byte b follows byte a somewhere inside a normal or unused piece */
    shk_prefixes marks;        /* user and control pieces */
    shk_prefixes lattice;      /* SHK_UNIGRAM: normal, user and unused pieces */
    float least, most;         /* SHK_UNIGRAM: scores of normal pieces */

    shk_merge *merges;         /* SHK_BPE_MERGES */
    size_t n_merges, merge_mask, merge_reach;

    uint32_t *trie;            /* precompiled normalisation rules, see normalize.c; NULL: none */
    size_t n_trie;
    char *rewritten;           /* what rules put, each ended by a zero */
    size_t n_rewritten;

    _Atomic(struct shk_trie *) pieces; /* made when it is first asked for: text/trie.h */
};

/* ---- building ---- */

shk_tokenizer *shk_vocab_new(void); /* empty, no special ids, spaces escaped; NULL for lack of memory */

/* Room for n pieces, then each in the order of the ids, as the file writes it. `path` is for messages. */
shk_status shk_vocab_reserve(shk_tokenizer *t, size_t n, const char *path, shk_error *err);
shk_status shk_vocab_add(shk_tokenizer *t, const char *piece, size_t n, int64_t type, double score, const char *path,
                         shk_error *err);
/* After the last piece and with the special ids set: checks these and builds the tables. */
shk_status shk_vocab_finish(shk_tokenizer *t, const char *path, shk_error *err);

/* SHK_BPE_MERGES, after shk_vocab_finish: room for n pairs, then each in order. Their pieces' scores become minus the place. */
shk_status shk_merges_reserve(shk_tokenizer *t, size_t n, const char *path, shk_error *err);
shk_status shk_merges_add(shk_tokenizer *t, int32_t left, int32_t right, const char *path, shk_error *err);
/* The same for a pair in the files' notation, "left right"; n bytes. A piece may itself have spaces. */
shk_status shk_merges_add_text(shk_tokenizer *t, const char *pair, size_t n, const char *path, shk_error *err);
/* NULL if the pair is not in the list. */
const shk_merge *shk_merges_find(const shk_tokenizer *t, int32_t left, int32_t right);
/* Whether the scores alone say what the list says: it has every division of each piece it makes, side by side. */
bool shk_merges_follow_scores(const shk_tokenizer *t);

/* Takes SentencePiece's precompiled_charsmap; n = 0 is the identity. */
shk_status shk_charsmap_set(shk_tokenizer *t, const void *data, size_t n, const char *path, shk_error *err);

/* ---- looking up ---- */

static inline const char *shk_piece(const shk_tokenizer *t, int32_t id, size_t *n) {
    *n = t->start[id + 1] - t->start[id];
    return t->text.data + t->start[id];
}

/* The normal, user or unused piece of exactly these bytes; SHK_NO_ID if there is none. */
int32_t shk_vocab_find(const shk_tokenizer *t, const char *p, size_t n);
int32_t shk_vocab_find_written(const shk_tokenizer *t, const char *p, size_t n); /* in the files' notation */

/* Length of the longest user (and control, if asked) piece that [p, p+n) starts with, and its id; 0: none. */
size_t shk_vocab_mark(const shk_tokenizer *t, const char *p, size_t n, bool control, int32_t *id);

static inline bool shk_vocab_joined(const shk_tokenizer *t, char a, char b) {
    unsigned pair = (unsigned)(uint8_t)a << 8 | (uint8_t)b;
    return t->joined[pair >> 3] >> (pair & 7) & 1;
}

/* Walking down the keys byte by byte. */
typedef struct shk_walk {
    uint32_t lo, hi, depth; /* keys [lo, hi) start with the `depth` bytes so far */
} shk_walk;

bool shk_prefixes_build(shk_prefixes *x, const shk_tokenizer *t, unsigned types); /* bit 1 << type for each that is wanted */
shk_walk shk_prefixes_start(const shk_prefixes *x, uint8_t first);                /* after one byte */
bool shk_prefixes_step(const shk_prefixes *x, shk_walk *w, uint8_t next);         /* false: no key goes on like this */
/* Bytes that were walked make this key; SHK_NO_ID: they are only the start of one. */
static inline int32_t shk_prefixes_here(const shk_prefixes *x, const shk_walk *w) {
    return w->lo < w->hi && x->keys[w->lo].n == w->depth ? x->keys[w->lo].id : SHK_NO_ID;
}

/* ---- tokenizing ---- */

typedef struct shk_ids {
    int32_t *v;
    size_t n, capacity;
    bool unknown; /* the last one is the unknown token, to which the next unknown character is added */
    bool failed;  /* for lack of memory; sticks */
} shk_ids;

void shk_ids_push(shk_ids *ids, int32_t id);
/* A character that no piece has: its bytes' pieces, or the unknown token, one for a run. */
void shk_ids_push_unmatched(const shk_tokenizer *t, shk_ids *ids, const char *p, size_t n);

/* The ids of a text after normalisation. n <= INT32_MAX. */
void shk_bpe(const shk_tokenizer *t, const char *text, size_t n, shk_ids *ids);
void shk_unigram(const shk_tokenizer *t, const char *text, size_t n, shk_ids *ids);

/* What the vocabulary makes of a text before that, appended to *out. `first`: the text begins here. `notation`: U+2581 is a
 * space. */
shk_status shk_normalize(const shk_tokenizer *t, const char *text, size_t n, bool first, bool notation, shk_buffer *out,
                         shk_error *err);

/* Bytes of the character at p, which has n > 0 bytes behind it; 1 if it is not UTF-8. */
size_t shk_utf8_length(const char *p, size_t n);

/* Copies a text with spaces for U+2581; out has room for n bytes and may be p. Returns its length. */
size_t shk_unescape(char *out, const char *p, size_t n);

/* Appends a piece as files write it. `spaces`: with U+2581 for them. */
bool shk_piece_write(const shk_tokenizer *t, int32_t id, bool spaces, shk_buffer *out);

/* ---- readers: bytes of a file; `path` is for messages ---- */

shk_status shk_tokenizer_from_json(shk_tokenizer **out, const void *data, size_t n, const char *path, shk_error *err);
shk_status shk_tokenizer_from_model(shk_tokenizer **out, const void *data, size_t n, const char *path, shk_error *err);

#endif
