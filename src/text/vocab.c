#define _GNU_SOURCE /* memmem */
#include "text/vocab.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/trie.h"

/* U+2581, which files write for a space. */
static const char escaped_space[] = "\xe2\x96\x81";

enum {
    REACH = 1024, /* a key this far from its place means keys made to collide */
    TEXT = 1 << SHK_PIECE_NORMAL | 1 << SHK_PIECE_USER | 1 << SHK_PIECE_UNUSED,
    MERGED = 1 << SHK_PIECE_NORMAL | 1 << SHK_PIECE_UNUSED,
    MARKS = 1 << SHK_PIECE_USER | 1 << SHK_PIECE_CONTROL
};

shk_tokenizer *shk_vocab_new(void) {
    shk_tokenizer *t = shk_calloc(1, sizeof *t);
    if (!t) return NULL;
    t->bos = t->eos = t->unk = t->pad = t->eot = t->turn_start = t->turn_end = SHK_NO_ID;
    t->add_bos = t->escape = true;
    t->text.cap = UINT32_MAX - 1;
    return t;
}

void shk_tokenizer_free(shk_tokenizer *t) {
    if (!t) return;
    shk_buffer_free(&t->text);
    void *owned[] = { t->start, t->score, t->type, t->slots, t->marks.keys, t->lattice.keys, t->merges, t->trie, t->rewritten };
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    shk_trie_free(atomic_load(&t->pieces));
    free(t);
}

static shk_status no_memory(const char *path, shk_error *err) {
    return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its vocabulary", path);
}

/* ---- adding ---- */

shk_status shk_vocab_reserve(shk_tokenizer *t, size_t n, const char *path, shk_error *err) {
    if (n == 0 || n > INT32_MAX / 2) return shk_fail(err, SHK_E_FORMAT, "%s: a vocabulary of %zu pieces", path, n);
    t->start = shk_calloc(n + 1, sizeof *t->start);
    t->score = shk_calloc(n, sizeof *t->score);
    t->type = shk_calloc(n, sizeof *t->type);
    if (!t->start || !t->score || !t->type) return no_memory(path, err);
    t->capacity = (int32_t)n;
    return SHK_OK;
}

size_t shk_unescape(char *out, const char *p, size_t n) {
    const char *end = p + n, *space;
    char *at = out;
    for (; (space = memmem(p, (size_t)(end - p), escaped_space, 3)); p = space + 3) {
        memmove(at, p, (size_t)(space - p));
        at += space - p;
        *at++ = ' ';
    }
    memmove(at, p, (size_t)(end - p));
    return (size_t)(at - out) + (size_t)(end - p);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0x0A>" -> 10; -1: another form. */
static int byte_of(const char *piece, size_t n) {
    if (n != 6 || memcmp(piece, "<0x", 3) || piece[5] != '>') return -1;
    int high = hex_digit(piece[3]), low = hex_digit(piece[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

shk_status shk_vocab_add(shk_tokenizer *t, const char *piece, size_t n, int64_t type, double score, const char *path,
                         shk_error *err) {
    int32_t id = t->n;
    char text[SHK_PIECE_MAX];
    if (id >= t->capacity) return shk_fail(err, SHK_E_FORMAT, "%s: more than %d pieces", path, t->capacity);
    if (n > SHK_PIECE_MAX)
        return shk_fail(err, SHK_E_UNSUPPORTED, "%s: piece %d has %zu bytes, more than %d", path, id, n, SHK_PIECE_MAX);
    if (type < SHK_PIECE_NORMAL || type > SHK_PIECE_BYTE)
        return shk_fail(err, SHK_E_FORMAT, "%s: piece %d has type %jd, which does not exist", path, id, (intmax_t)type);
    if (isnan(score)) return shk_fail(err, SHK_E_FORMAT, "%s: the score of piece %d is not a number", path, id);
    if (type == SHK_PIECE_BYTE) {
        int byte = byte_of(piece, n);
        if (byte < 0)
            return shk_fail(err, SHK_E_FORMAT, "%s: byte piece %d is \"%.*s\", not of the form <0x0A>", path, id, (int)n, piece);
        *text = (char)byte, n = 1;
    } else if (t->escape && (TEXT >> type & 1)) {
        n = shk_unescape(text, piece, n);
    } else {
        memcpy(text, piece, n);
    }
    if (!shk_buffer_append(&t->text, text, n)) return no_memory(path, err);
    t->type[id] = (uint8_t)type;
    t->score[id] = (float)score;
    t->start[++t->n] = (uint32_t)t->text.n;
    return SHK_OK;
}

bool shk_piece_write(const shk_tokenizer *t, int32_t id, bool spaces, shk_buffer *out) {
    size_t n;
    const char *p = shk_piece(t, id, &n);
    if (t->type[id] == SHK_PIECE_BYTE) return shk_buffer_printf(out, "<0x%02X>", (uint8_t)*p);
    if (!spaces || !t->escape || !(TEXT >> t->type[id] & 1)) return shk_buffer_append(out, p, n);
    const char *end = p + n, *space;
    for (; (space = memchr(p, ' ', (size_t)(end - p))); p = space + 1)
        if (!shk_buffer_append(out, p, (size_t)(space - p)) || !shk_buffer_append(out, escaped_space, 3)) return false;
    return shk_buffer_append(out, p, (size_t)(end - p));
}

/* ---- the hash table over pieces ---- */

static uint64_t mix(uint64_t h, uint64_t word) {
    h = (h ^ word) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t hash_bytes(const char *p, size_t n) {
    uint64_t h = n, word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        h = mix(h, word);
    }
    word = 0;
    memcpy(&word, p, n);
    return mix(mix(h, word), n);
}

int32_t shk_vocab_find(const shk_tokenizer *t, const char *p, size_t n) {
    if (n > t->longest) return SHK_NO_ID;
    uint64_t h = hash_bytes(p, n);
    for (size_t i = 0; i <= t->slot_reach; i++) {
        shk_piece_slot s = t->slots[(h + i) & t->slot_mask];
        if (s.id_1 == 0) break;
        if (s.hash != (uint32_t)(h >> 32)) continue;
        size_t length;
        const char *piece = shk_piece(t, (int32_t)s.id_1 - 1, &length);
        if (length == n && memcmp(piece, p, n) == 0) return (int32_t)s.id_1 - 1;
    }
    return SHK_NO_ID;
}

int32_t shk_vocab_find_written(const shk_tokenizer *t, const char *p, size_t n) {
    char text[3 * SHK_PIECE_MAX];
    if (n > sizeof text) return SHK_NO_ID;
    return t->escape ? shk_vocab_find(t, text, shk_unescape(text, p, n)) : shk_vocab_find(t, p, n);
}

/* Of equal pieces the first is the one that is found. */
static shk_status add_slot(shk_tokenizer *t, int32_t id, const char *path, shk_error *err) {
    size_t n, i = 0;
    const char *p = shk_piece(t, id, &n);
    if (n > t->longest) t->longest = n;
    if (n == 0 || shk_vocab_find(t, p, n) != SHK_NO_ID) return SHK_OK;
    uint64_t h = hash_bytes(p, n);
    while (i <= REACH && t->slots[(h + i) & t->slot_mask].id_1) i++;
    if (i > REACH) return shk_fail(err, SHK_E_FORMAT, "%s: the pieces are made to collide", path);
    if (i > t->slot_reach) t->slot_reach = i;
    t->slots[(h + i) & t->slot_mask] = (shk_piece_slot){ (uint32_t)(h >> 32), (uint32_t)id + 1 };
    if (MERGED >> t->type[id] & 1)
        for (size_t k = 1; k < n; k++) {
            unsigned pair = (unsigned)(uint8_t)p[k - 1] << 8 | (uint8_t)p[k];
            t->joined[pair >> 3] |= (uint8_t)(1u << (pair & 7));
        }
    return SHK_OK;
}

static shk_status build_slots(shk_tokenizer *t, const char *path, shk_error *err) {
    size_t size = 16;
    shk_status status = SHK_OK;
    while (size < 2 * (size_t)t->n) size *= 2;
    t->slots = shk_calloc(size, sizeof *t->slots);
    if (!t->slots) return no_memory(path, err);
    t->slot_mask = size - 1;
    for (int32_t id = 0; id < t->n && !status; id++)
        if (TEXT >> t->type[id] & 1) status = add_slot(t, id, path, err);
    return status;
}

/* ---- marks ---- */

size_t shk_vocab_mark(const shk_tokenizer *t, const char *p, size_t n, bool control, int32_t *id) {
    size_t best = 0;
    shk_walk w = shk_prefixes_start(&t->marks, (uint8_t)*p);
    while (w.lo < w.hi) {
        int32_t here = shk_prefixes_here(&t->marks, &w);
        if (here != SHK_NO_ID && (control || t->type[here] == SHK_PIECE_USER)) best = w.depth, *id = here;
        if (w.depth == n || !shk_prefixes_step(&t->marks, &w, (uint8_t)p[w.depth])) break;
    }
    return best;
}

/* ---- finishing ---- */

static shk_status check_specials(shk_tokenizer *t, const char *path, shk_error *err) {
    const struct { const char *name; int32_t id; } specials[] = {
        { "bos", t->bos }, { "eos", t->eos }, { "unknown", t->unk }, { "padding", t->pad }, { "eot", t->eot }
    };
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
        if (specials[i].id < SHK_NO_ID || specials[i].id >= t->n)
            return shk_fail(err, SHK_E_FORMAT, "%s: the %s token %d is outside the vocabulary of %d", path, specials[i].name,
                            specials[i].id, t->n);
    return SHK_OK;
}

static shk_status find_bytes(shk_tokenizer *t, const char *path, shk_error *err) {
    int found = 0;
    for (int i = 0; i < 256; i++) t->byte_id[i] = SHK_NO_ID;
    for (int32_t id = 0; id < t->n; id++) {
        if (t->type[id] != SHK_PIECE_BYTE) continue;
        int32_t *byte = &t->byte_id[(uint8_t)t->text.data[t->start[id]]];
        if (*byte == SHK_NO_ID) *byte = id, found++;
    }
    if (found < 256 && t->unk == SHK_NO_ID)
        return shk_fail(err, SHK_E_FORMAT, "%s: the vocabulary has neither an unknown token nor all bytes", path);
    return SHK_OK;
}

/* Some files call the turn markers user or normal pieces, which any text could then make. */
static void find_turns(shk_tokenizer *t) {
    const struct { const char *name; int32_t *id; } turns[] = {
        { "<start_of_turn>", &t->turn_start }, { "<end_of_turn>", &t->turn_end }
    };
    for (int32_t id = 0; id < t->n; id++) {
        size_t n;
        const char *p = shk_piece(t, id, &n);
        for (size_t i = 0; i < 2; i++) {
            if (n != strlen(turns[i].name) || memcmp(p, turns[i].name, n)) continue;
            t->type[id] = SHK_PIECE_CONTROL;
            *turns[i].id = id;
        }
    }
}

static void find_extremes(shk_tokenizer *t) {
    t->least = FLT_MAX;
    t->most = FLT_MIN; /* as SentencePiece has it: not -FLT_MAX */
    for (int32_t id = 0; id < t->n; id++) {
        if (t->type[id] != SHK_PIECE_NORMAL) continue;
        if (t->score[id] < t->least) t->least = t->score[id];
        if (t->score[id] > t->most) t->most = t->score[id];
    }
}

shk_status shk_vocab_finish(shk_tokenizer *t, const char *path, shk_error *err) {
    shk_status status = check_specials(t, path, err);
    if (status) return status;
    if (t->unk >= 0) t->type[t->unk] = SHK_PIECE_UNKNOWN;
    find_turns(t);
    status = find_bytes(t, path, err);
    if (!status) status = build_slots(t, path, err);
    if (status) return status;
    find_extremes(t);
    if (!shk_prefixes_build(&t->marks, t, MARKS)) return no_memory(path, err);
    if (t->algorithm == SHK_UNIGRAM && !shk_prefixes_build(&t->lattice, t, TEXT)) return no_memory(path, err);
    return SHK_OK;
}
