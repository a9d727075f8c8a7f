#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

enum {
    REACH = 1024,           /* as in vocab.c */
    MERGES_MAX = (1 << 24) - 1 /* a float holds their places exactly */
};

static uint64_t hash_pair(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 32) * 0xbf58476d1ce4e5b9u;
    return h ^ h >> 29;
}

shk_status shk_merges_reserve(shk_tokenizer *t, size_t n, const char *path, shk_error *err) {
    size_t size = 16;
    if (n >= MERGES_MAX) return shk_fail(err, SHK_E_UNSUPPORTED, "%s: %zu merges, more than %d", path, n, MERGES_MAX);
    while (size < n + n / 2) size *= 2;
    t->merges = shk_calloc(size, sizeof *t->merges);
    if (!t->merges) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory for its merges", path);
    t->merge_mask = size - 1;
    t->algorithm = SHK_BPE_MERGES;
    memset(t->score, 0, (size_t)t->n * sizeof *t->score);
    return SHK_OK;
}

const shk_merge *shk_merges_find(const shk_tokenizer *t, int32_t left, int32_t right) {
    uint64_t h = hash_pair(left, right);
    for (size_t i = 0; i <= t->merge_reach; i++) {
        const shk_merge *m = &t->merges[(h + i) & t->merge_mask];
        if (m->rank_1 == 0) break;
        if (m->left == left && m->right == right) return m;
    }
    return NULL;
}

/* The piece that two make; SHK_NO_ID if there is none. */
static int32_t joined_id(const shk_tokenizer *t, int32_t left, int32_t right) {
    char both[2 * SHK_PIECE_MAX];
    size_t n, m;
    const char *p = shk_piece(t, left, &n), *q = shk_piece(t, right, &m);
    memcpy(both, p, n);
    memcpy(both + n, q, m);
    return shk_vocab_find(t, both, n + m);
}

shk_status shk_merges_add(shk_tokenizer *t, int32_t left, int32_t right, const char *path, shk_error *err) {
    size_t rank = t->n_merges++, i = 0;
    int32_t id = joined_id(t, left, right);
    if (id == SHK_NO_ID) return shk_fail(err, SHK_E_FORMAT, "%s: merge %zu makes something that is no piece", path, rank);
    uint64_t h = hash_pair(left, right);
    if (shk_merges_find(t, left, right)) return shk_fail(err, SHK_E_FORMAT, "%s: merge %zu appeared before", path, rank);
    while (i <= REACH && t->merges[(h + i) & t->merge_mask].rank_1) i++;
    if (i > REACH) return shk_fail(err, SHK_E_FORMAT, "%s: the merges are made to collide", path);
    if (i > t->merge_reach) t->merge_reach = i;
    t->merges[(h + i) & t->merge_mask] = (shk_merge){ left, right, id, (uint32_t)rank + 1 };
    if (t->score[id] == 0) t->score[id] = -(float)rank - 1;
    return SHK_OK;
}

shk_status shk_merges_add_text(shk_tokenizer *t, const char *pair, size_t n, const char *path, shk_error *err) {
    for (size_t i = 1; i + 1 < n; i++) {
        if (pair[i] != ' ') continue;
        int32_t left = shk_vocab_find_written(t, pair, i), right = shk_vocab_find_written(t, pair + i + 1, n - i - 1);
        if (left >= 0 && right >= 0) return shk_merges_add(t, left, right, path, err);
    }
    return shk_fail(err, SHK_E_FORMAT, "%s: merge %zu, \"%.*s\", does not name two pieces", path, t->n_merges,
                    (int)(n < 99 ? n : 99), pair);
}

static bool is_merged(const shk_tokenizer *t, int32_t id) {
    return id >= 0 && (t->type[id] == SHK_PIECE_NORMAL || t->type[id] == SHK_PIECE_UNUSED);
}

/* A division of a piece that would be merged by the scores must be in the list, and no merge that makes another piece may lie
 * between the merges that make this one. User pieces never take part. */
bool shk_merges_follow_scores(const shk_tokenizer *t) {
    uint32_t *count = shk_calloc((size_t)t->n, sizeof *count), *last = shk_calloc((size_t)t->n, sizeof *last);
    bool follow = count && last;
    for (size_t i = 0; i <= t->merge_mask && follow; i++) {
        const shk_merge *m = &t->merges[i];
        if (m->rank_1 == 0) continue;
        count[m->id]++;
        if (m->rank_1 > last[m->id]) last[m->id] = m->rank_1;
    }
    for (int32_t id = 0; id < t->n && follow; id++) {
        size_t n;
        const char *p = shk_piece(t, id, &n);
        if (!is_merged(t, id)) continue;
        if (count[id] && last[id] - count[id] + 1 != (uint32_t)-t->score[id]) follow = false;
        for (size_t i = 1; i < n && follow; i++) {
            int32_t left = shk_vocab_find(t, p, i), right = shk_vocab_find(t, p + i, n - i);
            if (is_merged(t, left) && is_merged(t, right) && !shk_merges_find(t, left, right)) follow = false;
        }
    }
    free(count);
    free(last);
    return follow;
}
