/* Attention through the rings of a session's state. */
#include <math.h>
#include <string.h>

#include "cpu/device.h"

/* One round: up to SHK_ATTENTION_CHUNK new tokens of each sequence go into the rings, then attend. A ring has room for the
 * window of the first of them when the last is in, so that prefill and single steps see the same positions. */
typedef struct round_args {
    shk_cpu *cpu;
    float *o;
    uint32_t *kept;
    const float *q;
    const shk_pass *pass;
    const shk_attention *a;
    size_t rows;
    struct {
        const shk_seq *seq;
        size_t row;
        uint64_t pos;
    } at[SHK_PASS_ROWS];
} round_args;

static size_t row_bytes(shk_type type, size_t dim) {
    size_t n = 0;
    shk_row_bytes(type, dim, &n); /* whole blocks: the state was laid out so */
    return n;
}

static void *ring_row(const shk_seq *s, size_t layer, size_t region, size_t head, size_t slot, size_t dim) {
    const shk_state_layer *l = &s->layers[layer];
    return s->state + region + (head * l->ring + slot) * row_bytes(l->type, dim);
}

static void write_row(const shk_seq *s, const shk_attention *a, const float *k, const float *v, uint64_t pos) {
    const shk_state_layer *l = &s->layers[a->layer];
    size_t slot = (size_t)(pos % l->ring), D = a->head_dim, r = a->rank;
    for (size_t h = 0; h < a->kv_heads; h++, k += D, v += D) {
        if (r) {
            shk_quant_row(l->type, ring_row(s, a->layer, l->k, h, slot, r), k, r);
            shk_quant_row(l->type, ring_row(s, a->layer, l->k2, h, slot, D - r), k + r, (D - r));
        } else {
            shk_quant_row(l->type, ring_row(s, a->layer, l->k, h, slot, D), k, D);
        }
        shk_quant_row(l->type, ring_row(s, a->layer, l->v, h, slot, D), v, D);
    }
}

static void rounds(void *dev, shk_range_fn *attend, float *o, uint32_t *kept, const float *q, const float *k, const float *v,
                   const shk_pass *pass, const shk_attention *a) {
    round_args args = { .cpu = dev, .o = o, .kept = kept, .q = q, .pass = pass, .a = a };
    size_t kv = a->kv_heads * a->head_dim;
    for (size_t done = 0;; done += SHK_ATTENTION_CHUNK) {
        args.rows = 0;
        for (size_t i = 0; i < pass->n_seqs; i++) {
            const shk_seq *s = &pass->seqs[i];
            for (size_t j = done; j < s->n && j < done + SHK_ATTENTION_CHUNK; j++) {
                size_t row = s->row + j;
                if (a->write) write_row(s, a, k + row * kv, v + row * kv, s->pos + j);
                args.at[args.rows].seq = s;
                args.at[args.rows].row = row;
                args.at[args.rows++].pos = s->pos + j;
            }
        }
        if (!args.rows) return;
        shk_pool_run(args.cpu->pool, attend, &args, args.rows * a->heads, 1);
    }
}

/* The visible positions [lo, pos] of a ring as at most two runs of slots. */
typedef struct runs {
    size_t slot[2], n[2];
} runs;

static runs visible(uint64_t pos, size_t window, size_t ring) {
    uint64_t lo = window && pos + 1 > window ? pos + 1 - window : 0;
    size_t n = (size_t)(pos - lo + 1), slot = (size_t)(lo % ring);
    size_t first = n < ring - slot ? n : ring - slot;
    return (runs){ { slot, 0 }, { first, n - first } };
}

static void attend_dense(void *ctx, int thread, size_t begin, size_t end) {
    const round_args *r = ctx;
    const shk_attention *a = r->a;
    const shk_kernels *k = &r->cpu->k;
    float *scores = r->cpu->scores + (size_t)thread * r->cpu->positions;
    size_t D = a->head_dim, group = a->heads / a->kv_heads;
    for (size_t i = begin; i < end; i++) {
        size_t head = i % a->heads, kv = head / group, row = r->at[i / a->heads].row;
        const shk_seq *s = r->at[i / a->heads].seq;
        const shk_state_layer *l = &s->layers[a->layer];
        shk_type T = l->type;
        runs v = visible(r->at[i / a->heads].pos, a->window, l->ring);
        size_t n = v.n[0] + v.n[1];
        const float *q = r->q + (row * a->heads + head) * D;
        float *o = r->o + (row * a->heads + head) * D;
        for (int p = 0; p < 2; p++)
            k->dot_rows[T](scores + p * v.n[0], ring_row(s, a->layer, l->k, kv, v.slot[p], D), row_bytes(T, D), NULL, v.n[p], q, D);
        if (a->softcap > 0) k->softcap(scores, n, a->softcap);
        k->softmax(scores, n);
        memset(o, 0, D * sizeof *o);
        for (int p = 0; p < 2; p++)
            k->axpy_rows[T](o, ring_row(s, a->layer, l->v, kv, v.slot[p], D), row_bytes(T, D), NULL, scores + p * v.n[0], v.n[p], D);
    }
}

/* The heads of a group share what is read of their keys and values. */
static void count(shk_cpu *cpu, const shk_attention *a, double positions, double dims) {
    cpu->work.state_bytes += positions * dims * (double)(a->kv_heads * sizeof(float));
    cpu->work.flops += 2 * positions * dims * (double)a->heads;
}

void shk_cpu_attention(void *dev, float *o, const float *q, const float *k, const float *v, const shk_pass *pass,
                       const shk_attention *a) {
    rounds(dev, attend_dense, o, NULL, q, k, v, pass, a);
    for (size_t i = 0; i < pass->n_seqs; i++)
        for (uint64_t pos = pass->seqs[i].pos; pos < pass->seqs[i].pos + pass->seqs[i].n; pos++)
            count(dev, a, (double)(a->window && pos + 1 > a->window ? a->window : pos + 1), 2.0 * (double)a->head_dim);
}

/* The predictor part of every visible key is read; the rest of a key and its value only where the threshold is passed. */
static void attend_spark(void *ctx, int thread, size_t begin, size_t end) {
    const round_args *r = ctx;
    const shk_attention *a = r->a;
    const shk_kernels *k = &r->cpu->k;
    size_t base = (size_t)thread * r->cpu->positions;
    float *scores = r->cpu->scores + base, *part = r->cpu->part + base;
    uint32_t *ids = r->cpu->kept + base;
    size_t D = a->head_dim, rank = a->rank, rest = D - rank, group = a->heads / a->kv_heads;
    for (size_t i = begin; i < end; i++) {
        size_t head = i % a->heads, kv = head / group, row = r->at[i / a->heads].row;
        const shk_seq *s = r->at[i / a->heads].seq;
        const shk_state_layer *l = &s->layers[a->layer];
        shk_type T = l->type;
        size_t n = (size_t)r->at[i / a->heads].pos + 1;
        const float *q = r->q + (row * a->heads + head) * D;
        float *o = r->o + (row * a->heads + head) * D;
        k->dot_rows[T](scores, ring_row(s, a->layer, l->k, kv, 0, rank), row_bytes(T, rank), NULL, n, q, rank);
        float theta = shk_cpu_threshold(r->cpu, scores, n, a->k, a->ddof);
        size_t kept = k->select(ids, scores, n, theta);
        for (size_t j = 0; j < kept; j++) scores[j] = scores[ids[j]]; /* ids ascend: nothing is overwritten before it is read */
        k->dot_rows[T](part, ring_row(s, a->layer, l->k2, kv, 0, rest), row_bytes(T, rest), ids, kept, q + rank, rest);
        if (kept) k->softmax(scores, kept);
        k->softplus(part, part, kept);
        k->mul(scores, scores, part, kept);
        for (size_t d = 0; d < D; d++) o[d] = isnan(theta) ? theta : 0; /* nothing is above a NaN, which must not pass for a 0 */
        k->axpy_rows[T](o, ring_row(s, a->layer, l->v, kv, 0, D), row_bytes(T, D), ids, scores, kept, D);
        r->kept[row * a->heads + head] = (uint32_t)kept;
    }
}

void shk_cpu_spark_attention(void *dev, float *o, uint32_t *kept, const float *q, const float *k, const float *v,
                             const shk_pass *pass, const shk_attention *a) {
    rounds(dev, attend_spark, o, kept, q, k, v, pass, a);
    for (size_t i = 0; i < pass->n_seqs; i++)
        for (size_t j = 0; j < pass->seqs[i].n; j++) {
            size_t sum = 0;
            for (size_t h = 0; h < a->heads; h++) sum += kept[(pass->seqs[i].row + j) * a->heads + h];
            count(dev, a, (double)(pass->seqs[i].pos + j + 1), (double)a->rank);
            count(dev, a, (double)sum / (double)a->heads, 2.0 * (double)a->head_dim - (double)a->rank);
        }
}
