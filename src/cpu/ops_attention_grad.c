/* Attention within documents, for whole batches, forward and backward. A thread takes a sequence and a kv head, and goes through
 * tiles of queries: the scores of a tile are all that exists of the T x T at a time. */
#include <math.h>
#include <string.h>

#include "cpu/ops_grad.h"

enum { TILE = 96, SCORES, PRODUCT, WEIGHT, RAW2, SOFT2, BUFFERS = SOFT2 - SCORES + 1 };

typedef struct attend_args {
    const shk_cpu *cpu;
    float *o, *lse;
    shk_threshold *th;
    float *dq, *dk, *dv;
    const float *q, *k, *v, *dy, *y;
    const shk_batch *b;
    const shk_attention *a;
    float *work; /* [threads, BUFFERS, TILE, T] */
} attend_args;

/* Queries [t0, t1) of a head against keys [lo, t1), from sequence `b` on. */
typedef struct tile {
    const attend_args *g;
    int thread;
    size_t b, head, kv;
    size_t t0, t1, lo, n;
    float *buffer[BUFFERS]; /* [t1 - t0, n] */
} tile;

size_t shk_cpu_attention_work(void *dev, const shk_batch *b, const shk_attention *a) {
    (void)a;
    return (size_t)((shk_cpu *)dev)->threads * BUFFERS * TILE * b->T * sizeof(float);
}

static size_t lowest(const attend_args *g, size_t b, size_t t) {
    size_t first = (size_t)g->b->first[b * g->b->T + t], window = g->a->window;
    return window && t + 1 > window && t + 1 - window > first ? t + 1 - window : first;
}

static float *scores_of(const tile *x, int which) { return x->buffer[which - SCORES]; }
static size_t row_of(const tile *x, size_t t) { return x->b * x->g->b->T + t; }
static size_t q_at(const tile *x, size_t t) { return (row_of(x, t) * x->g->a->heads + x->head) * x->g->a->head_dim; }
static size_t kv_at(const tile *x, size_t t) { return (row_of(x, t) * x->g->a->kv_heads + x->kv) * x->g->a->head_dim; }
static size_t q_row(const tile *x) { return x->g->a->heads * x->g->a->head_dim; }
static size_t kv_row(const tile *x) { return x->g->a->kv_heads * x->g->a->head_dim; }

/* to [t1 - t0, n] = the dot products over dims [d0, d1) of rows of a (one a query) and rows of k (one a key) */
static void scores(const tile *x, float *to, const float *a, const float *k, size_t d0, size_t d1) {
    shk_product p = { to, x->n, { a + q_at(x, x->t0) + d0, q_row(x), 1 }, { k + kv_at(x, x->lo) + d0, 1, kv_row(x) },
                      x->t1 - x->t0, x->n, d1 - d0, false };
    shk_cpu_gemm(x->g->cpu, x->thread, &p);
}

/* to (one row a query), dims [d0, d1) = w k */
static void mix(const tile *x, float *to, const float *w, const float *k, size_t d0, size_t d1) {
    shk_product p = { to + q_at(x, x->t0) + d0, q_row(x), { w, x->n, 1 }, { k + kv_at(x, x->lo) + d0, kv_row(x), 1 },
                      x->t1 - x->t0, d1 - d0, x->n, false };
    shk_cpu_gemm(x->g->cpu, x->thread, &p);
}

/* to (one row a key), dims [d0, d1) += w^T a */
static void spread(const tile *x, float *to, const float *w, const float *a, size_t d0, size_t d1) {
    shk_product p = { to + kv_at(x, x->lo) + d0, kv_row(x), { w, 1, x->n }, { a + q_at(x, x->t0) + d0, q_row(x), 1 },
                      x->n, d1 - d0, x->t1 - x->t0, true };
    shk_cpu_gemm(x->g->cpu, x->thread, &p);
}

/* The raw scores, capped; both parts of them for spark. */
static void make_scores(const tile *x) {
    const shk_attention *a = x->g->a;
    size_t D = a->head_dim, r = a->rank ? a->rank : D;
    scores(x, scores_of(x, SCORES), x->g->q, x->g->k, 0, r);
    if (a->softcap > 0) x->g->cpu->k.softcap(scores_of(x, SCORES), (x->t1 - x->t0) * x->n, a->softcap);
    if (!a->rank) return;
    scores(x, scores_of(x, RAW2), x->g->q, x->g->k, r, D);
    x->g->cpu->k.softplus(scores_of(x, SOFT2), scores_of(x, RAW2), (x->t1 - x->t0) * x->n);
}

/* p [n] = exp(s - lse) where [from, to) are visible and pass the threshold, 0 elsewhere */
static void weights(const tile *x, float *p, const float *s, float theta, float lse, size_t from, size_t to) {
    memset(p, 0, from * sizeof *p);
    memset(p + to, 0, (x->n - to) * sizeof *p);
    x->g->cpu->k.exp(p + from, s + from, lse, to - from);
    if (theta == -INFINITY) return;
    for (size_t j = from; j < to; j++)
        if (s[j] <= theta) p[j] = 0;
}

/* theta, and log-sum-exp of what passes it: +inf where nothing does, so that its weights are 0 */
static float measure(const tile *x, shk_threshold *th, const float *s, size_t n) {
    const shk_attention *a = x->g->a;
    *th = (shk_threshold){ 0, 0, -INFINITY, 0 };
    if (a->rank && (double)n > a->k && n > a->ddof) {
        double mean, std;
        x->g->cpu->k.moments(s, n, a->ddof, &mean, &std);
        *th = (shk_threshold){ (float)mean, (float)std, (float)(mean + std * shk_normal_quantile(1 - a->k / (double)n)), 0 };
    }
    bool all = th->theta == -INFINITY;
    float most = -INFINITY;
    double sum = 0;
    for (size_t j = 0; j < n; j++)
        if (s[j] > most || s[j] != s[j]) most = s[j];
    for (size_t j0 = 0; j0 < n; j0 += 256) {
        float e[256], part = 0;
        size_t m = n - j0 < 256 ? n - j0 : 256;
        x->g->cpu->k.exp(e, s + j0, most, m);
        for (size_t j = 0; j < m; j++) {
            bool kept = all || !(s[j0 + j] <= th->theta);
            part += kept ? e[j] : 0;
            th->active += kept;
        }
        sum += (double)part;
    }
    return sum == 0 ? INFINITY : (float)((double)most + log(sum));
}

static void forward(const tile *x) {
    const attend_args *g = x->g;
    make_scores(x);
    for (size_t t = x->t0; t < x->t1; t++) {
        size_t from = lowest(g, x->b, t) - x->lo, to = t + 1 - x->lo, at = row_of(x, t) * g->a->heads + x->head;
        float *p = scores_of(x, PRODUCT) + (t - x->t0) * x->n;
        const float *s = scores_of(x, SCORES) + (t - x->t0) * x->n;
        shk_threshold th;
        g->lse[at] = measure(x, &th, s + from, to - from);
        if (g->a->rank) g->th[at] = th;
        weights(x, p, s, th.theta, g->lse[at], from, to);
    }
    float *p = scores_of(x, PRODUCT);
    if (g->a->rank) g->cpu->k.mul(p, p, scores_of(x, SOFT2), (x->t1 - x->t0) * x->n);
    mix(x, g->o, p, g->v, 0, g->a->head_dim);
}

/* With p the softmax, f = softplus(s2) (1 without spark) and w = p f:
 *   dw = dy v^T;  dv += w^T dy;  ds2 = dw p sigmoid(s2);  ds = p (dw f - dy . o), times 1 - (s / cap)^2 */
static void backward(const tile *x) {
    const attend_args *g = x->g;
    const shk_attention *a = g->a;
    size_t D = a->head_dim, r = a->rank ? a->rank : D, all = (x->t1 - x->t0) * x->n;
    float *p = scores_of(x, PRODUCT), *dw = scores_of(x, WEIGHT), *raw2 = scores_of(x, RAW2), *soft2 = scores_of(x, SOFT2);
    make_scores(x);
    scores(x, dw, g->dy, g->v, 0, D);
    for (size_t t = x->t0; t < x->t1; t++) {
        size_t from = lowest(g, x->b, t) - x->lo, to = t + 1 - x->lo, at = row_of(x, t) * a->heads + x->head;
        size_t row = (t - x->t0) * x->n;
        weights(x, p + row, scores_of(x, SCORES) + row, a->rank ? g->th[at].theta : -INFINITY, g->lse[at], from, to);
    }
    if (a->rank) {
        g->cpu->k.softplus_grad(raw2, dw, raw2, all);
        g->cpu->k.mul(raw2, raw2, p, all);   /* ds2 */
        g->cpu->k.mul(dw, dw, soft2, all);
        g->cpu->k.mul(soft2, soft2, p, all); /* w */
        mix(x, g->dq, raw2, g->k, r, D);
        spread(x, g->dk, raw2, g->q, r, D);
    }
    spread(x, g->dv, a->rank ? soft2 : p, g->dy, 0, D);
    for (size_t t = x->t0; t < x->t1; t++) {
        const float *dy = g->dy + q_at(x, t), *y = g->y + q_at(x, t);
        size_t row = (t - x->t0) * x->n;
        float dot;
        g->cpu->k.dot_rows[SHK_F32](&dot, dy, 0, NULL, 1, y, D);
        g->cpu->k.softmax_grad(p + row, dw + row, dot, scores_of(x, SCORES) + row, a->softcap > 0 ? 1 / a->softcap : 0, x->n);
    }
    mix(x, g->dq, p, g->k, 0, r);
    spread(x, g->dk, p, g->q, 0, r);
}

static void clear_kv(const attend_args *g, const tile *x) {
    for (size_t t = 0; t < g->b->T; t++) {
        memset(g->dk + kv_at(x, t), 0, g->a->head_dim * sizeof(float));
        memset(g->dv + kv_at(x, t), 0, g->a->head_dim * sizeof(float));
    }
}

static void attend_range(void *ctx, int thread, size_t begin, size_t end) {
    const attend_args *g = ctx;
    size_t T = g->b->T, group = g->a->heads / g->a->kv_heads;
    tile x = { .g = g, .thread = thread };
    for (int i = 0; i < BUFFERS; i++) x.buffer[i] = g->work + ((size_t)thread * BUFFERS + (size_t)i) * TILE * T;
    for (size_t i = begin; i < end; i++) {
        x.b = i / g->a->kv_heads, x.kv = i % g->a->kv_heads;
        if (g->dq) clear_kv(g, &x);
        for (x.head = x.kv * group; x.head < (x.kv + 1) * group; x.head++)
            for (x.t0 = 0; x.t0 < T; x.t0 += TILE) {
                x.t1 = T - x.t0 < TILE ? T : x.t0 + TILE;
                x.lo = lowest(g, x.b, x.t0);
                x.n = x.t1 - x.lo;
                if (g->dq) backward(&x);
                else forward(&x);
            }
    }
}

void shk_cpu_attention_rows(void *dev, float *o, float *lse, shk_threshold *th, const float *q, const float *k, const float *v,
                            const shk_batch *b, const shk_attention *a, void *work) {
    shk_cpu *cpu = dev;
    attend_args args = { .cpu = cpu, .o = o, .lse = lse, .th = th, .q = q, .k = k, .v = v, .b = b, .a = a, .work = work };
    shk_pool_run(cpu->pool, attend_range, &args, b->B * a->kv_heads, 1);
}

void shk_cpu_attention_grad(void *dev, float *dq, float *dk, float *dv, const float *dy, const float *o, const float *lse,
                            const shk_threshold *th, const float *q, const float *k, const float *v, const shk_batch *b,
                            const shk_attention *a, void *work) {
    shk_cpu *cpu = dev;
    attend_args args = { .cpu = cpu, .dq = dq, .dk = dk, .dv = dv, .dy = dy, .y = o, .lse = (float *)lse,
                         .th = (shk_threshold *)th, .q = q, .k = k, .v = v, .b = b, .a = a, .work = work };
    shk_pool_run(cpu->pool, attend_range, &args, b->B * a->kv_heads, 1);
}
