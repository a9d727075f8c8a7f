#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "text/vocab.h"

/* ---- ids ---- */

void shk_ids_push(shk_ids *ids, int32_t id) {
    if (ids->n == ids->capacity) {
        size_t larger = ids->capacity ? 2 * ids->capacity : 64;
        int32_t *v = shk_realloc(ids->v, larger, sizeof *v);
        if (!v) {
            ids->failed = true;
            return;
        }
        ids->v = v, ids->capacity = larger;
    }
    ids->v[ids->n++] = id;
    ids->unknown = false;
}

void shk_ids_push_unmatched(const shk_tokenizer *t, shk_ids *ids, const char *p, size_t n) {
    bool spelled = true;
    for (size_t i = 0; i < n; i++) spelled = spelled && t->byte_id[(uint8_t)p[i]] != SHK_NO_ID;
    if (spelled) {
        for (size_t i = 0; i < n; i++) shk_ids_push(ids, t->byte_id[(uint8_t)p[i]]);
    } else if (!ids->unknown) {
        shk_ids_push(ids, t->unk);
        ids->unknown = true;
    }
}

size_t shk_utf8_length(const char *p, size_t n) {
    const uint8_t *s = (const uint8_t *)p;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 1;
    size_t length = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (length > n) return 1;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80) return 1;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool outside = (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f); /* surrogates; above U+10FFFF */
    return overlong || outside ? 1 : length;
}

/* ---- tokenizing ---- */

/* A stretch of n > 0 bytes without control tokens. `first`: no text came before. */
static shk_status encode(const shk_tokenizer *t, const char *text, size_t n, bool first, bool notation, shk_ids *ids,
                         shk_error *err) {
    shk_buffer normalized = { 0 };
    shk_status status = SHK_OK;
    if (t->trie || t->squeeze || (t->add_space && first) || notation) {
        status = shk_normalize(t, text, n, first, notation, &normalized, err);
        text = normalized.data, n = normalized.n;
    }
    if (!status && n > INT32_MAX) status = shk_fail(err, SHK_E_LIMIT, "a text of %zu bytes is too long to tokenize", n);
    if (!status && t->algorithm == SHK_UNIGRAM) shk_unigram(t, text, n, ids);
    else if (!status) shk_bpe(t, text, n, ids);
    shk_buffer_free(&normalized);
    return status;
}

/* Where the next control token is in [from, n); n if there is none. */
static size_t find_control(const shk_tokenizer *t, const char *text, size_t from, size_t n, size_t *length, int32_t *id) {
    while (from < n) {
        *length = shk_vocab_mark(t, text + from, n - from, true, id);
        if (*length > 0 && t->type[*id] == SHK_PIECE_CONTROL) return from;
        from += *length > 0 ? *length : 1;
    }
    return *length = 0, n;
}

shk_status shk_tokenize(const shk_tokenizer *t, const char *text, size_t n, unsigned flags, int32_t **out, size_t *n_out,
                        shk_error *err) {
    bool notation = flags & SHK_TOKENIZE_SPECIAL;
    shk_ids ids = { .v = shk_calloc(64, sizeof *ids.v), .capacity = 64 };
    shk_status status = SHK_OK;
    *out = NULL, *n_out = 0;
    ids.failed = !ids.v;
    if (ids.failed) goto done;
    if ((flags & SHK_TOKENIZE_BOS) && t->add_bos && t->bos >= 0) shk_ids_push(&ids, t->bos);
    bool first = true; /* no text yet, control tokens perhaps */
    for (size_t from = 0, to = n, length = 0; from < n && !status && !ids.failed; from = to + length) {
        int32_t control;
        to = notation ? find_control(t, text, from, n, &length, &control) : n;
        if (to > from) status = encode(t, text + from, to - from, first, notation, &ids, err), first = false;
        if (to < n) shk_ids_push(&ids, control);
    }
done:
    if (ids.failed && !status) status = shk_fail(err, SHK_E_MEMORY, "out of memory for the tokens of %zu bytes", n);
    if (status) free(ids.v);
    else *out = ids.v, *n_out = ids.n;
    return status;
}

/* ---- back to text ---- */

size_t shk_token_bytes(const shk_tokenizer *t, int32_t id, int special, const char **text) {
    size_t n;
    *text = "";
    if (id < 0 || id >= t->n) return 0;
    if (!special && (t->type[id] == SHK_PIECE_CONTROL || t->type[id] == SHK_PIECE_UNKNOWN)) return 0;
    *text = shk_piece(t, id, &n);
    return n;
}

shk_status shk_detokenize(const shk_tokenizer *t, const int32_t *ids, size_t n, int special, char **text, size_t *n_text,
                          shk_error *err) {
    const char *p;
    size_t total = 0, at = 0;
    *text = NULL, *n_text = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->n)
            return shk_fail(err, SHK_E_ARGUMENT, "token id %d is outside the vocabulary of %d", ids[i], t->n);
        if (!shk_add(&total, total, shk_token_bytes(t, ids[i], special, &p))) return shk_fail(err, SHK_E_MEMORY, "%zu tokens", n);
    }
    char *out = total < SIZE_MAX ? shk_calloc(total + 1, 1) : NULL;
    if (!out) return shk_fail(err, SHK_E_MEMORY, "out of memory for the text of %zu tokens", n);
    bool drop = t->add_space; /* the space that tokenizing put in front */
    for (size_t i = 0; i < n; i++) {
        size_t length = shk_token_bytes(t, ids[i], special, &p);
        bool control = t->type[ids[i]] == SHK_PIECE_CONTROL;
        if (drop && !control && length > 0 && *p == ' ') p++, length--;
        drop = drop && control;
        memcpy(out + at, p, length);
        at += length;
    }
    *text = out, *n_text = at;
    return SHK_OK;
}

/* ---- properties ---- */

int32_t shk_tokenizer_vocab_size(const shk_tokenizer *t) { return t->n; }
int32_t shk_tokenizer_bos(const shk_tokenizer *t) { return t->bos; }
int32_t shk_tokenizer_eos(const shk_tokenizer *t) { return t->eos; }

int shk_tokenizer_is_end(const shk_tokenizer *t, int32_t id) {
    return id >= 0 && (id == t->eos || id == t->eot || id == t->turn_end);
}

/* ---- loading ---- */

static shk_status load_gguf(shk_tokenizer **out, const char *path, shk_error *err) {
    shk_gguf g;
    shk_status status = shk_gguf_open(&g, path, err);
    if (status) return status;
    status = shk_tokenizer_from_gguf(out, &g, err);
    if (!status && !*out) status = shk_fail(err, SHK_E_FORMAT, "%s: has no tokenizer", path);
    shk_gguf_free(&g);
    return status;
}

static shk_status load_file(shk_tokenizer **out, const char *path, shk_error *err) {
    shk_map map;
    if (shk_gguf_probe(path)) return load_gguf(out, path, err);
    shk_status status = shk_map_open(&map, path, err);
    if (status) return status;
    bool json = map.size > 0 && *map.data == '{'; /* which in a tokenizer.model is the tag of no field */
    status = json ? shk_tokenizer_from_json(out, map.data, map.size, path, err)
                  : shk_tokenizer_from_model(out, map.data, map.size, path, err);
    shk_map_close(&map);
    return status;
}

shk_status shk_tokenizer_load(shk_tokenizer **out, const char *path, shk_error *err) {
    static const char *const names[] = { "tokenizer.json", "tokenizer.model" };
    shk_buffer file = { 0 };
    struct stat st;
    *out = NULL;
    if (stat(path, &st) || !S_ISDIR(st.st_mode)) return load_file(out, path, err);
    shk_status status = shk_fail(err, SHK_E_IO, "%s: holds neither %s nor %s", path, names[0], names[1]);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        file.n = 0;
        if (!shk_buffer_printf(&file, "%s/%s", path, names[i])) {
            status = shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
            break;
        }
        if (stat(file.data, &st)) continue;
        status = load_file(out, file.data, err);
        break;
    }
    shk_buffer_free(&file);
    return status;
}

const char *shk_tokenizer_kind(const shk_tokenizer *t) { return t->algorithm == SHK_UNIGRAM ? "unigram" : "bpe"; }
