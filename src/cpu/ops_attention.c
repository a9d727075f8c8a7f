/* Attention through the rings of a session's state.
 *
 * Positions go in chunks of SHK_ATTENTION_CHUNK, cut at multiples of it whatever a pass holds. Of a chunk a query gets its share
 *     m = max s_j     l = sum e^(s_j - m)     acc = sum e^(s_j - m) v_j          over the positions j of the chunk that it sees
 * and shares are folded in ascending order, the sums so far brought to the common maximum M' = max(M, m):
 *     L <- e^(M - M') L + e^(m - M') l     O <- e^(M - M') O + e^(m - M') acc          at the end o = O / L
 * (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). A share depends on its query and on the chunk only,
 * so it does not matter how many queries are computed at once, nor whether one thread goes through all chunks or many threads
 * through one each. Scores never fill more than a chunk. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/device.h"
#include "mem.h"

enum {
    CHUNK = SHK_ATTENTION_CHUNK,
    BLOCK_ROWS = 64,       /* queries for which a chunk is made f32 once */
    SPLIT_TOKENS = 8,      /* there is room for the shares of all chunks of so many tokens, */
    MOST_SHARES = 1 << 20, /* but for no more than these */
    SCORE_ROWS = 192,      /* rows of scores that spark attention makes at a time */
    WRITE_GRAIN = 16384,   /* values that are not worth waking a thread for */
    LINE = 16              /* floats of a cache line */
};

/* Rows [row, row + n) of a pass, tokens of one sequence; the first is at pos. */
typedef struct block {
    const shk_seq *seq;
    size_t row, n;
    uint64_t pos;
} block;

typedef struct job {
    shk_cpu *cpu;
    float *o;
    uint32_t *kept;
    const float *q, *k, *v;
    const shk_pass *pass;
    const shk_attention *a;
    size_t group;                  /* query heads that share a key */
    size_t n_blocks, most, chunks; /* tokens and chunks of a block, at most */
    bool shared;                   /* the chunks' shares are there already */
    block blocks[SHK_PASS_ROWS];
} job;

static size_t row_bytes(shk_type type, size_t dim) {
    size_t n = 0;
    shk_row_bytes(type, dim, &n); /* whole blocks: the state was laid out so */
    return n;
}

static char *ring_row(const shk_seq *s, const shk_state_layer *l, size_t region, size_t head, uint64_t pos, size_t dim) {
    return s->state + region + (head * l->ring + (size_t)(pos % l->ring)) * row_bytes(l->type, dim);
}

/* The first position that the token at pos sees. */
static uint64_t first_seen(const shk_attention *a, uint64_t pos) {
    return a->window && pos + 1 > a->window ? pos + 1 - a->window : 0;
}

static uint64_t first_chunk(const shk_attention *a, const block *b) { return first_seen(a, b->pos) / CHUNK; }
static size_t chunks_of(const shk_attention *a, const block *b) {
    return (size_t)((b->pos + b->n - 1) / CHUNK + 1 - first_chunk(a, b));
}

/* What of chunk c the tokens of a block see. */
typedef struct span {
    uint64_t begin, end;
} span;

static span seen_of(const shk_attention *a, const block *b, uint64_t c) {
    uint64_t begin = first_seen(a, b->pos), end = b->pos + b->n;
    return (span){ begin > c * CHUNK ? begin : c * CHUNK, end < (c + 1) * CHUNK ? end : (c + 1) * CHUNK };
}

/* ---- memory ---- */

static size_t share_floats(size_t head_dim) { return (head_dim + 2 + LINE - 1) / LINE * LINE; } /* acc, m, l */

/* A thread's: a chunk of keys or values, a block's scores, its shares, its sums L and maxima M. */
static size_t scratch_floats(const shk_attention_room *r) {
    size_t rows = r->group > BLOCK_ROWS ? r->group : BLOCK_ROWS;
    return CHUNK * r->head_dim + rows * (CHUNK + share_floats(r->head_dim) + LINE);
}

static size_t room_shares(const shk_attention_room *r) {
    size_t n = SPLIT_TOKENS * r->heads * (r->positions / CHUNK + 2);
    return n < MOST_SHARES ? n : MOST_SHARES;
}
static size_t score_rows(size_t heads) { return heads > SCORE_ROWS ? heads : SCORE_ROWS; }

/* Places the parts from `base` on, if it is not NULL; *end: bytes in all. false on overflow. */
static bool place_room(shk_attention_room *r, size_t threads, char *base, size_t *end) {
    const struct {
        void *at;
        size_t n, floats;
    } parts[] = {
        { &r->scratch, threads, scratch_floats(r) },
        { &r->shares, room_shares(r), share_floats(r->head_dim) },
        { &r->scores, score_rows(r->heads), r->positions },
        { &r->part, threads, r->positions },
        { &r->ids, threads, r->positions },
    };
    *end = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char *p = base ? base + *end : NULL;
        size_t n;
        memcpy(parts[i].at, &p, sizeof p);
        if (!shk_mul(&n, parts[i].n, parts[i].floats) || !shk_mul(&n, n, sizeof(float)) || !shk_add(&n, n, 63)) return false;
        if (!shk_add(end, *end, n & ~(size_t)63)) return false;
    }
    return true;
}

shk_status shk_cpu_reserve(void *dev, uint64_t positions, size_t heads, size_t kv_heads, size_t head_dim, shk_error *err) {
    shk_cpu *cpu = dev;
    const shk_attention_room *had = &cpu->room;
    size_t group = kv_heads ? heads / kv_heads : 0, threads = (size_t)cpu->threads;
    if (positions <= had->positions && heads <= had->heads && group <= had->group && head_dim <= had->head_dim) return SHK_OK;
#define MORE(field) (field > had->field ? field : had->field)
    shk_attention_room r = { MORE(positions), MORE(heads), MORE(group), MORE(head_dim) };
#undef MORE
    if (place_room(&r, threads, NULL, &r.bytes)) r.memory = shk_reserve(r.bytes);
    if (!r.memory)
        return shk_fail(err, SHK_E_MEMORY, "no address space for attention over %llu positions", (unsigned long long)positions);
    place_room(&r, threads, r.memory, &r.bytes);
    shk_release(cpu->room.memory, cpu->room.bytes);
    cpu->room = r;
    return SHK_OK;
}

/* ---- what both kinds share ---- */

static void write_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    const job *j = ctx;
    const shk_attention *a = j->a;
    const shk_seq *s = j->pass->seqs;
    size_t D = a->head_dim, first = a->rank ? a->rank : D;
    for (size_t i = begin; i < end; i++) {
        size_t row = i / a->kv_heads, h = i % a->kv_heads;
        while (row >= s->row + s->n) s++;
        const shk_state_layer *l = &s->layers[a->layer];
        uint64_t pos = s->pos + (row - s->row);
        shk_quant_row(l->type, ring_row(s, l, l->k, h, pos, first), j->k + i * D, first);
        if (first < D) shk_quant_row(l->type, ring_row(s, l, l->k2, h, pos, D - first), j->k + i * D + first, D - first);
        shk_quant_row(l->type, ring_row(s, l, l->v, h, pos, D), j->v + i * D, D);
    }
}

static void write_rows(job *j) {
    size_t grain = WRITE_GRAIN / j->a->head_dim + 1;
    if (j->a->write) shk_pool_run(j->cpu->pool, write_range, j, j->pass->T * j->a->kv_heads, grain);
}

/* Cuts rows [begin, end) of the pass into blocks of at most `most` tokens. */
static void cut(job *j, size_t begin, size_t end, size_t most) {
    j->n_blocks = j->chunks = 0;
    j->most = most;
    for (size_t i = 0; i < j->pass->n_seqs; i++) {
        const shk_seq *s = &j->pass->seqs[i];
        size_t at = s->row > begin ? s->row : begin, stop = s->row + s->n < end ? s->row + s->n : end;
        for (size_t n; at < stop; at += n) {
            n = stop - at < most ? stop - at : most;
            block *b = &j->blocks[j->n_blocks++];
            *b = (block){ s, at, n, s->pos + (at - s->row) };
            if (chunks_of(j->a, b) > j->chunks) j->chunks = chunks_of(j->a, b);
        }
    }
}

/* The queries of a block for one key head, as `n` lines of `rows` equally far apart: the heads of one token, or a line of tokens
 * for each head. Heads are numbered over all tokens of the pass: row k of line i is number at + i + k * step. */
typedef struct lines {
    size_t n, rows, at, step;
} lines;

static lines lines_of(const job *j, const block *b, size_t kv) {
    bool one = b->n == 1;
    return (lines){ one ? 1 : j->group, one ? j->group : b->n, b->row * j->a->heads + kv * j->group, one ? 1 : j->a->heads };
}

/* The number of row r of all lines one after the other. */
static size_t head_of(const lines *l, size_t r) { return l->at + r / l->rows + r % l->rows * l->step; }

static const float *as_f32(const job *j, float *to, shk_type type, const void *rows, size_t n) {
    if (type == SHK_F32) return rows;
    j->cpu->k.dequant[type](to, rows, n);
    return to;
}

/* ---- dense ---- */

/* The shares of chunk c for a block's queries for one key head, in the order of lines. One token's queries see the same positions,
 * which are decoded as they are read. For several tokens the chunk is made f32 first and what one does not see has weight 0. */
static void find_shares(const job *j, float *scratch, const block *b, size_t kv, uint64_t c, float *share) {
    const shk_attention *a = j->a;
    const shk_kernels *k = &j->cpu->k;
    const shk_state_layer *l = &b->seq->layers[a->layer];
    size_t D = a->head_dim, S = share_floats(D), rows = b->n * j->group;
    span seen = seen_of(a, b, c);
    size_t n = (size_t)(seen.end - seen.begin);
    const char *keys = ring_row(b->seq, l, l->k, kv, seen.begin, D), *values = ring_row(b->seq, l, l->v, kv, seen.begin, D);
    float *f32 = scratch, *scores = scratch + CHUNK * D;
    lines q = lines_of(j, b, kv);
    if (b->n == 1) {
        k->dot_many[l->type](scores, CHUNK, keys, n, j->q + q.at * D, D, rows, D);
    } else {
        const float *w = as_f32(j, f32, l->type, keys, n * D);
        for (size_t i = 0; i < q.n; i++)
            k->matmul_f32(scores + i * q.rows * CHUNK, CHUNK, w, D, j->q + (q.at + i) * D, q.step * D, n, q.rows, D);
    }
    for (size_t r = 0; r < rows; r++) {
        uint64_t pos = b->pos + r % b->n;
        span own = seen_of(a, &(block){ b->seq, 0, 1, pos }, c);
        float *s = scores + r * CHUNK, *out = share + r * S;
        bool any = own.begin < own.end;
        size_t from = any ? (size_t)(own.begin - seen.begin) : 0, some = any ? (size_t)(own.end - own.begin) : 0;
        out[D + 1] = 0;
        if (a->softcap > 0) k->softcap(s + from, some, a->softcap);
        if (any) out[D + 1] = k->exp_sum(s + from, some, &out[D]);
        memset(s, 0, from * sizeof *s);
        memset(s + from + some, 0, (n - from - some) * sizeof *s);
    }
    if (b->n == 1) {
        for (size_t r = 0; r < rows; r++) memset(share + r * S, 0, D * sizeof *share);
        k->axpy_many[l->type](share, S, values, n, scores, CHUNK, rows, D);
    } else {
        k->mix_f32(share, S, as_f32(j, f32, l->type, values, n * D), D, scores, CHUNK, n, rows, D);
    }
}

/* A task is a block and a key head. Where the shares of its chunk are kept until they are folded: `chunk` counts from the first
 * that the block sees. */
static float *shares_at(const job *j, size_t task, size_t chunk) {
    return j->cpu->room.shares + (task * j->chunks + chunk) * j->most * j->group * share_floats(j->a->head_dim);
}

static float *scratch_of(const job *j, int thread) { return j->cpu->room.scratch + (size_t)thread * scratch_floats(&j->cpu->room); }

static void share_range(void *ctx, int thread, size_t begin, size_t end) {
    const job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        size_t chunk = i % j->chunks, task = i / j->chunks;
        const block *b = &j->blocks[task / j->a->kv_heads];
        uint64_t c = first_chunk(j->a, b) + chunk;
        if (chunk < chunks_of(j->a, b))
            find_shares(j, scratch_of(j, thread), b, task % j->a->kv_heads, c, shares_at(j, task, chunk));
    }
}

typedef struct sums {
    float max, sum;
} sums;

static void fold(const shk_kernels *k, float *o, sums *s, const float *share, size_t D) {
    float m = share[D], l = share[D + 1], max = m > s->max ? m : s->max;
    if (l == 0) return;
    float before = expf(s->max - max), now = expf(m - max);
    k->fold(o, before, share, now, D);
    s->sum = before * s->sum + now * l;
    s->max = max;
}

static void attend_range(void *ctx, int thread, size_t begin, size_t end) {
    const job *j = ctx;
    const shk_attention *a = j->a;
    size_t D = a->head_dim, S = share_floats(D);
    for (size_t i = begin; i < end; i++) {
        size_t kv = i % a->kv_heads;
        const block *b = &j->blocks[i / a->kv_heads];
        lines q = lines_of(j, b, kv);
        size_t rows = q.n * q.rows;
        float *scratch = scratch_of(j, thread), *own = scratch + CHUNK * D + rows * CHUNK;
        sums *total = (sums *)(void *)(own + rows * S);
        for (size_t r = 0; r < rows; r++) {
            total[r] = (sums){ -INFINITY, 0 };
            memset(j->o + head_of(&q, r) * D, 0, D * sizeof(float));
        }
        for (size_t c = 0; c < chunks_of(a, b); c++) {
            float *share = j->shared ? shares_at(j, i, c) : own;
            if (!j->shared) find_shares(j, scratch, b, kv, first_chunk(a, b) + c, share);
            for (size_t r = 0; r < rows; r++) fold(&j->cpu->k, j->o + head_of(&q, r) * D, &total[r], share + r * S, D);
        }
        for (size_t r = 0; r < rows; r++) {
            float *o = j->o + head_of(&q, r) * D;
            j->cpu->k.fold(o, 1 / total[r].sum, o, 0, D);
        }
    }
}

/* Notes that a key head's positions were read for a block and that each of its queries took part in `pairs` of them. */
static void count(const job *j, double positions, double pairs, size_t dims, shk_type type) {
    j->cpu->work.state_bytes += positions * (double)(j->a->kv_heads * row_bytes(type, dims));
    j->cpu->work.flops += 2 * pairs * (double)(j->a->heads * dims);
}

static double pairs_of(const shk_attention *a, const block *b) {
    double pairs = 0;
    for (uint64_t pos = b->pos; pos < b->pos + b->n; pos++) pairs += (double)(pos + 1 - first_seen(a, pos));
    return pairs;
}

void shk_cpu_attention(void *dev, float *o, const float *q, const float *k, const float *v, const shk_pass *pass,
                       const shk_attention *a) {
    job j = { .cpu = dev, .o = o, .q = q, .k = k, .v = v, .pass = pass, .a = a, .group = a->heads / a->kv_heads };
    size_t threads = (size_t)j.cpu->threads, tokens = pass->T * a->kv_heads / (2 * threads), most = BLOCK_ROWS / j.group;
    write_rows(&j);
    if (tokens > most) tokens = most;
    cut(&j, 0, pass->T, tokens ? tokens : 1);
    size_t tasks = j.n_blocks * a->kv_heads;
    if (tasks < 2 * threads && j.chunks > 1 && tasks * j.chunks * j.most * j.group <= room_shares(&j.cpu->room)) {
        shk_pool_run(j.cpu->pool, share_range, &j, tasks * j.chunks, 1);
        j.shared = true;
    }
    shk_pool_run(j.cpu->pool, attend_range, &j, tasks, 1);
    for (size_t i = 0; i < j.n_blocks; i++) {
        const block *b = &j.blocks[i];
        count(&j, (double)(b->pos + b->n - first_seen(a, b->pos)), pairs_of(a, b), 2 * a->head_dim, b->seq->layers[a->layer].type);
    }
}

/* ---- spark ---- */

/* Rows of scores, one a token and head, from those of the first block's first token on. */
static float *score_row(const job *j, size_t head_number) {
    return j->cpu->room.scores + (head_number - j->blocks[0].row * j->a->heads) * j->cpu->room.positions;
}

/* The predictor part of every visible key is read, once for a block's queries. */
static void predict_range(void *ctx, int thread, size_t begin, size_t end) {
    const job *j = ctx;
    const shk_attention *a = j->a;
    const shk_kernels *k = &j->cpu->k;
    size_t D = a->head_dim, rank = a->rank, room = j->cpu->room.positions;
    for (size_t i = begin; i < end; i++) {
        size_t chunk = i % j->chunks, kv = i / j->chunks % a->kv_heads;
        const block *b = &j->blocks[i / j->chunks / a->kv_heads];
        const shk_state_layer *l = &b->seq->layers[a->layer];
        lines q = lines_of(j, b, kv);
        span seen = seen_of(a, b, chunk);
        if (seen.begin >= seen.end) continue;
        size_t n = (size_t)(seen.end - seen.begin);
        const char *keys = ring_row(b->seq, l, l->k, kv, seen.begin, rank);
        if (b->n == 1) {
            k->dot_many[l->type](score_row(j, q.at) + seen.begin, room, keys, n, j->q + q.at * D, D, q.rows, rank);
            continue;
        }
        const float *w = as_f32(j, scratch_of(j, thread), l->type, keys, n * rank);
        for (size_t line = 0; line < q.n; line++)
            k->matmul_f32(score_row(j, q.at + line) + seen.begin, q.step * room, w, rank, j->q + (q.at + line) * D, q.step * D, n,
                          q.rows, rank);
    }
}

/* The rest of a key and its value, only where the threshold is passed. */
static void attend_kept(const job *j, int thread, const block *b, size_t head) {
    const shk_attention *a = j->a;
    const shk_kernels *k = &j->cpu->k;
    const shk_state_layer *l = &b->seq->layers[a->layer];
    size_t D = a->head_dim, rest = D - a->rank, kv = head % a->heads / j->group;
    size_t n = (size_t)(b->pos + (head / a->heads - b->row)) + 1, base = (size_t)thread * j->cpu->room.positions;
    float *scores = score_row(j, head), *part = j->cpu->room.part + base, *o = j->o + head * D;
    uint32_t *ids = j->cpu->room.ids + base;
    float theta = shk_cpu_threshold(j->cpu, scores, n, a->k, a->ddof);
    size_t kept = k->select(ids, scores, n, theta);
    for (size_t i = 0; i < kept; i++) scores[i] = scores[ids[i]]; /* ids ascend: nothing is overwritten before it is read */
    const char *keys = ring_row(b->seq, l, l->k2, kv, 0, rest), *values = ring_row(b->seq, l, l->v, kv, 0, D);
    k->dot_rows[l->type](part, keys, row_bytes(l->type, rest), ids, kept, j->q + head * D + a->rank, rest);
    if (kept) k->softmax(scores, kept);
    k->softplus(part, part, kept);
    k->mul(scores, scores, part, kept);
    for (size_t d = 0; d < D; d++) o[d] = isnan(theta) ? theta : 0; /* nothing is above a NaN, which must not pass for a 0 */
    k->axpy_rows[l->type](o, values, row_bytes(l->type, D), ids, scores, kept, D);
    j->kept[head] = (uint32_t)kept;
}

static void kept_range(void *ctx, int thread, size_t begin, size_t end) {
    const job *j = ctx;
    const block *b = j->blocks;
    for (size_t i = begin; i < end; i++) {
        size_t head = j->blocks[0].row * j->a->heads + i;
        while (head / j->a->heads >= b->row + b->n) b++;
        attend_kept(j, thread, b, head);
    }
}

void shk_cpu_spark_attention(void *dev, float *o, uint32_t *kept, const float *q, const float *k, const float *v,
                             const shk_pass *pass, const shk_attention *a) {
    job j = { .cpu = dev, .o = o, .kept = kept, .q = q, .k = k, .v = v, .pass = pass, .a = a, .group = a->heads / a->kv_heads };
    size_t D = a->head_dim, step = score_rows(a->heads) / a->heads, total = 0;
    write_rows(&j);
    for (size_t row = 0; row < pass->T; row += step) {
        size_t end = pass->T - row < step ? pass->T : row + step;
        cut(&j, row, end, BLOCK_ROWS);
        shk_pool_run(j.cpu->pool, predict_range, &j, j.n_blocks * a->kv_heads * j.chunks, 1);
        shk_pool_run(j.cpu->pool, kept_range, &j, (end - row) * a->heads, 1);
        for (size_t i = 0; i < j.n_blocks; i++) {
            const block *b = &j.blocks[i];
            count(&j, (double)(b->pos + b->n), pairs_of(a, b), a->rank, b->seq->layers[a->layer].type);
        }
    }
    for (size_t i = 0; i < pass->T * a->heads; i++) total += kept[i];
    j.cpu->work.state_bytes += (double)total * (double)row_bytes(pass->seqs[0].layers[a->layer].type, 2 * D - a->rank);
    j.cpu->work.flops += 2.0 * (double)total * (double)(2 * D - a->rank);
}
