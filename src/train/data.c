#include "train/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "file/safetensors.h"

static uint64_t document_at(const shk_shard *s, uint64_t i) {
    int64_t v;
    if (i == s->n_documents) return s->n_tokens;
    memcpy(&v, s->documents + i * sizeof v, sizeof v);
    return (uint64_t)v;
}

static int32_t token_at(const shk_shard *s, uint64_t i) {
    int32_t v;
    uint16_t narrow;
    if (s->wide) return memcpy(&v, s->tokens + i * sizeof v, sizeof v), v;
    return memcpy(&narrow, s->tokens + i * sizeof narrow, sizeof narrow), narrow;
}

static shk_status open_shard(shk_shard *s, const char *path, shk_error *err) {
    shk_status st = shk_safetensors_open(&s->file, path, err);
    if (st) return st;
    const shk_tensor *tokens = shk_tensors_find(&s->file, "tokens"), *documents = shk_tensors_find(&s->file, "documents");
    if (!tokens || !documents || (tokens->type != SHK_I16 && tokens->type != SHK_I32) || documents->type != SHK_I64)
        return shk_fail(err, SHK_E_FORMAT, "%s: no shard: it needs tokens (I16 or I32) and documents (I64)", path);
    s->tokens = tokens->data, s->documents = documents->data, s->wide = tokens->type == SHK_I32;
    s->n_tokens = tokens->n_elem, s->n_documents = documents->n_elem;
    for (uint64_t i = 0; i < s->n_documents; i++)
        if ((i == 0 && document_at(s, 0) != 0) || document_at(s, i + 1) <= document_at(s, i))
            return shk_fail(err, SHK_E_FORMAT, "%s: document %llu begins at %lld, which is out of order", path,
                            (unsigned long long)i, (long long)document_at(s, i));
    return SHK_OK;
}

static shk_status open_shards(shk_data *d, const char *dir, const char *name, shk_error *err) {
    for (;; d->n++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s-%05zu.safetensors", dir, name, d->n);
        if (d->n && access(path, F_OK) != 0) return SHK_OK;
        shk_shard *grown = shk_realloc(d->shards, d->n + 1, sizeof *grown);
        if (!grown) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", path);
        d->shards = grown;
        shk_shard *s = &d->shards[d->n];
        *s = (shk_shard){ .before = d->n_documents };
        shk_status st = open_shard(s, path, err);
        if (st) return shk_tensors_free(&s->file), st;
        d->n_documents += s->n_documents, d->n_tokens += s->n_tokens;
    }
}

shk_status shk_data_open(shk_data *d, const char *dir, const char *name, size_t T, shk_error *err) {
    *d = (shk_data){ .T = T };
    shk_status st = open_shards(d, dir, name, err);
    if (!st && !(d->pieces = shk_calloc(d->n_documents, sizeof *d->pieces)))
        st = shk_fail(err, SHK_E_MEMORY, "%s: no memory for %llu documents", dir, (unsigned long long)d->n_documents);
    for (size_t k = 0; !st && k < d->n; k++)
        for (uint64_t i = 0; i < d->shards[k].n_documents; i++) {
            d->pieces[d->shards[k].before + i] = d->n_pieces;
            d->n_pieces += (document_at(&d->shards[k], i + 1) - document_at(&d->shards[k], i) - 1 + T - 1) / T;
        }
    if (!st && !d->n_pieces) st = shk_fail(err, SHK_E_FORMAT, "%s: the shards %s hold no document of two tokens", dir, name);
    if (st) shk_data_close(d);
    return st;
}

void shk_data_close(shk_data *d) {
    for (size_t i = 0; i < d->n; i++) shk_tensors_free(&d->shards[i].file);
    free(d->shards);
    free(d->pieces);
    memset(d, 0, sizeof *d);
}

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* The place of i in a permutation of [0, n) that the key chooses: four rounds of a Feistel network over the next power of 4, taken
 * again until the result is below n. */
static uint64_t permute(uint64_t i, uint64_t n, uint64_t key) {
    unsigned half = 1;
    while (half < 32 && n > (uint64_t)1 << 2 * half) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = i >> half, right = i & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t next = left ^ (mix(key + round * 0x9e3779b97f4a7c15u + (right << 3)) & mask);
            left = right, right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

static uint64_t piece_at(const shk_data *d, const shk_place *at, uint64_t seed) {
    return seed ? permute(at->piece, d->n_pieces, mix(seed) + mix(at->epoch + 1)) : at->piece;
}

/* The document that a piece is of: the last that has no more pieces before it. */
static uint64_t document_of(const shk_data *d, uint64_t piece) {
    uint64_t low = 0, high = d->n_documents;
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (d->pieces[middle] <= piece) low = middle;
        else high = middle;
    }
    return low;
}

/* Where in which shard a piece begins, and its tokens. */
static const shk_shard *find(const shk_data *d, uint64_t piece, uint64_t *begin, uint64_t *n) {
    uint64_t document = document_of(d, piece), skip = (piece - d->pieces[document]) * d->T, end;
    size_t k = 0;
    while (k + 1 < d->n && d->shards[k + 1].before <= document) k++;
    const shk_shard *s = &d->shards[k];
    *begin = document_at(s, document - s->before) + skip;
    end = document_at(s, document - s->before + 1) - 1;
    *n = end - *begin < d->T ? end - *begin : d->T;
    return s;
}

static void next_piece(const shk_data *d, shk_place *at) {
    at->offset = 0;
    if (++at->piece == d->n_pieces) at->piece = 0, at->epoch++;
}

void shk_data_next(const shk_data *d, shk_place *at, uint64_t seed, size_t B, int32_t *tokens, int32_t *targets, int32_t *first) {
    uint64_t begin, n;
    for (size_t i = 0; i < B * d->T;) {
        const shk_shard *s = find(d, piece_at(d, at, seed), &begin, &n);
        uint64_t left = n > at->offset ? n - at->offset : 0;
        size_t t = i % d->T, take = left < d->T - t ? (size_t)left : d->T - t;
        for (size_t j = 0; j < take; j++, i++) {
            tokens[i] = token_at(s, begin + at->offset + j);
            targets[i] = token_at(s, begin + at->offset + j + 1);
            first[i] = (int32_t)t;
        }
        at->offset += take;
        if (at->offset >= n) next_piece(d, at);
    }
}

uint64_t shk_data_document(const shk_data *d, const shk_place *at, uint64_t seed, size_t row) {
    for (shk_place p = *at;; next_piece(d, &p)) { /* rows have no gaps */
        uint64_t begin, n, piece = piece_at(d, &p, seed);
        find(d, piece, &begin, &n);
        uint64_t left = n > p.offset ? n - p.offset : 0;
        if (row < left) return document_of(d, piece);
        row -= (size_t)left;
    }
}
