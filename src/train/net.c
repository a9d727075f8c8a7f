#include "train/net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

/* ---- memory ---- */

/* Places buffers one after the other; without a base it only measures. */
typedef struct placer {
    char *base;
    size_t end;
    bool overflow;
} placer;

static void place(placer *p, void *field, size_t n, size_t size) {
    size_t bytes, end;
    char *at = p->base ? p->base + p->end : NULL;
    if (!shk_mul(&bytes, n, size) || !shk_add(&end, p->end, bytes) || !shk_add(&end, end, 63)) {
        p->overflow = true;
        return;
    }
    if (!n) at = NULL;
    memcpy(field, &at, sizeof at);
    p->end = end & ~(size_t)63;
}

static void place_acts(shk_net *n, placer *p, uint32_t l) {
    const shk_config *c = n->c;
    const shk_layer_config *lc = &c->layers[l];
    shk_acts *x = &n->acts[l];
    bool recurrent = lc->mixer == SHK_MIXER_RECURRENT, spark = lc->mixer == SHK_MIXER_SPARK;
    size_t N = n->N, d = N * c->hidden, post = c->post_norms ? d : 0, f = N * lc->ffn, w = recurrent ? N * c->lru_width : 0;
    size_t heads = recurrent ? 0 : N * c->heads, q = heads * c->head_dim, kv = recurrent ? 0 : N * c->kv_heads * c->head_dim;
    bool norms = n->W.layers[l].q_norm != NULL;
    struct {
        void *at;
        size_t n, size;
    } list[] = {
        { &x->mixer_in, d, n->act },  { &x->mixer_out, post, n->act }, { &x->mid, d, n->act },
        { &x->mlp_in, d, n->act },    { &x->mlp_out, post, n->act },   { &x->q_raw, norms ? q : 0, n->act },
        { &x->k_raw, norms ? kv : 0, n->act },                         { &x->q, q, n->act },
        { &x->k, kv, n->act },        { &x->v, kv, n->act },           { &x->o, q, n->act },
        { &x->lse, heads, sizeof(float) },                             { &x->kept, spark ? heads : 0, sizeof(shk_threshold) },
        { &x->branch, w, n->act },    { &x->line, w, n->act },         { &x->conv, w, n->act },
        { &x->ia, w, n->act },        { &x->ra, w, n->act },           { &x->h, w, n->act },
        { &x->s, f, n->act },         { &x->u, f, n->act },
        { &x->active, lc->mlp == SHK_MLP_GATED ? 0 : N, sizeof(shk_threshold) },
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) place(p, list[i].at, list[i].n, list[i].size);
}

static void place_scratch(shk_net *n, placer *p) {
    const shk_config *c = n->c;
    shk_scratch *s = &n->s;
    size_t N = n->N, d = N * c->hidden, f = 0, work = 0, q = 0, kv = 0;
    size_t w = shk_config_uses(c, false, SHK_MIXER_RECURRENT) ? N * c->lru_width : 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        if (N * c->layers[l].ffn > f) f = N * c->layers[l].ffn;
        if (c->layers[l].mixer != SHK_MIXER_RECURRENT) q = N * c->heads * c->head_dim, kv = N * c->kv_heads * c->head_dim;
    }
    shk_attention a = { .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim };
    if (q) work = n->t->attention_work(n->dev, &n->batch, &a);
    struct {
        void *at;
        size_t n;
    } list[] = {
        { &s->dx, d },     { &s->dy, d },    { &s->dn, d },      { &s->dq, q },    { &s->dk, kv },
        { &s->dv, kv },    { &s->dout, q },  { &s->gated, w },   { &s->dgated, w }, { &s->dbranch, w },
        { &s->dline, w },  { &s->dia, w },   { &s->dra, w },     { &s->a, f },     { &s->da, f },
        { &s->ds, f },     { &s->last, d },  { &s->logits, n->rows * c->vocab },
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) place(p, list[i].at, list[i].n, n->act);
    place(p, &s->work, work, 1);
    place(p, &s->loss, N, sizeof(float));
}

static void place_all(shk_net *n, placer *p) {
    const shk_config *c = n->c;
    place(p, &n->batch.tokens, n->N, sizeof(int32_t));
    place(p, &n->batch.targets, n->N, sizeof(int32_t));
    place(p, &n->batch.first, n->N, sizeof(int32_t));
    for (size_t i = 0; i < n->m->n_ropes; i++) {
        place(p, &n->ropes[i], n->options.T * 2 * n->m->ropes[i].half, sizeof(float));
        place(p, &n->q_ropes[i], n->options.T * 2 * n->m->ropes[i].half, sizeof(float));
    }
    place(p, &n->stream, (c->n_layers + (size_t)1) * n->N * c->hidden, n->act);
    size_t start = p->end, end = start;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        if (n->options.recompute) p->end = start; /* layers take turns */
        place_acts(n, p, l);
        if (p->end > end) end = p->end;
    }
    p->end = end;
    place_scratch(n, p);
}

static shk_status allocate(shk_net *n, struct block *b, size_t bytes, shk_error *err) {
    *b = (struct block){ n->ops->alloc(n->dev, bytes), bytes };
    return b->p ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory for %zu bytes", n->m->path, bytes);
}

static shk_status make_params(shk_net *n, shk_error *err) {
    shk_status st = shk_params_list(&n->params, n->m, err);
    size_t unit = SHK_PARAM_ALIGN * (n->options.shards ? n->options.shards : 1);
    if (!st) n->params.size = (n->params.size + unit - 1) / unit * unit;
    size_t bytes = n->params.size * sizeof(float);
    if (!st) st = allocate(n, &n->params_block, 2 * bytes, err);
    if (st) return st;
    n->w = n->params_block.p;
    n->g = n->w + n->params.size;
    float *host = shk_calloc(n->params.size, sizeof *host);
    st = host ? shk_params_read(&n->params, host, n->m, err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", n->m->path);
    if (!st) n->ops->upload(n->dev, n->w, host, bytes);
    if (!st) n->t->refresh(n->dev, n->w, n->params.size);
    free(host);
    if (!st) st = shk_params_bind(&n->params, &n->W, n->w, n->m->arena, err);
    if (!st) st = shk_params_bind(&n->params, &n->G, n->g, n->m->arena, err);
    return st;
}

/* Angles of positions 0 to T - 1, made as passes of a model make them. */
static shk_status make_ropes(shk_net *n, shk_error *err) {
    shk_status st = SHK_OK;
    for (size_t t = 0, k; !st && t < n->options.T; t += k) {
        k = n->options.T - t < SHK_PASS_ROWS ? n->options.T - t : SHK_PASS_ROWS;
        shk_seq seq = { .n = k, .pos = t };
        shk_pass positions = { .T = k, .seqs = &seq, .n_seqs = 1 };
        n->ops->begin(n->dev, &positions, 0, false);
        for (size_t i = 0; i < n->m->n_ropes; i++) {
            const shk_rope *r = &n->m->ropes[i];
            n->ops->rope_table(n->dev, n->ropes[i] + t * 2 * r->half, r->freq, r->half, &positions);
        }
        st = n->ops->end(n->dev, true, err);
    }
    for (size_t i = 0; !st && i < n->m->n_ropes; i++) {
        size_t values = n->options.T * 2 * n->m->ropes[i].half;
        float *table = shk_calloc(values, sizeof *table), scale = (float)(1 / sqrt(n->c->q_scalar));
        if (!table) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", n->m->path);
        n->ops->download(n->dev, table, n->ropes[i], values * sizeof *table);
        for (size_t j = 0; j < values; j++) table[j] *= scale;
        n->ops->upload(n->dev, n->q_ropes[i], table, values * sizeof *table);
        free(table);
    }
    return st;
}

static shk_status make_buffers(shk_net *n, shk_error *err) {
    placer p = { 0 };
    place_all(n, &p);
    if (p.overflow) return shk_fail(err, SHK_E_ARGUMENT, "a batch of %zu x %zu tokens is too large", n->options.B, n->options.T);
    shk_status st = allocate(n, &n->block, p.end, err);
    if (st) return st;
    p = (placer){ .base = n->block.p };
    place_all(n, &p);
    return make_ropes(n, err);
}

shk_status shk_net_new(shk_net **out, shk_model *m, const shk_net_options *o, shk_error *err) {
    *out = NULL;
    shk_net *n = shk_calloc(1, sizeof *n);
    shk_status st = SHK_OK;
    if (!n) {
        shk_model_free(m);
        return shk_fail(err, SHK_E_MEMORY, "no memory");
    }
    *n = (shk_net){ .m = m, .c = &m->config, .ops = m->ops, .t = m->ops->train, .dev = m->dev, .options = *o };
    n->batch.B = o->B, n->batch.T = o->T;
    if (!n->t) st = shk_fail(err, SHK_E_UNSUPPORTED, "%s cannot train", m->ops->name);
    if (!st && (!o->B || !o->T || !shk_mul(&n->N, o->B, o->T) || n->N > INT32_MAX))
        st = shk_fail(err, SHK_E_ARGUMENT, "a batch of %zu x %zu tokens is not possible", o->B, o->T);
    if (!st && !(n->act = n->t->begin(n->dev, o->bf16 ? SHK_BF16 : SHK_F32)))
        st = shk_fail(err, SHK_E_UNSUPPORTED, "%s cannot compute in %s", m->ops->name, o->bf16 ? "bf16" : "f32");
    n->rows = !st && n->t->logits / n->c->vocab > 64 ? n->t->logits / n->c->vocab : 64;
    size_t parts = (n->N + n->rows - 1) / n->rows;
    n->rows = !st ? (n->N + parts - 1) / parts : 1; /* parts alike */
    n->acts = shk_arena_alloc(m->arena, n->c->n_layers, sizeof *n->acts);
    n->host_loss = shk_calloc(n->N, sizeof *n->host_loss);
    if (!st && (!n->acts || !n->host_loss)) st = shk_fail(err, SHK_E_MEMORY, "no memory");
    if (!st) st = make_params(n, err);
    if (!st) st = make_buffers(n, err);
    if (st) shk_net_free(n);
    else *out = n;
    return st;
}

void shk_net_free(shk_net *n) {
    if (!n) return;
    n->ops->release(n->dev, n->block.p, n->block.bytes);
    n->ops->release(n->dev, n->params_block.p, n->params_block.bytes);
    shk_model_free(n->m);
    free(n->host_loss);
    free(n);
}

/* ---- forward ---- */

static shk_act *stream(const shk_net *n, uint32_t l) {
    return (shk_act *)(void *)(n->stream + l * n->N * n->c->hidden * n->act);
}

/* out = x + the slot's output, which is in `y` before its norm, or in `out` already where it has none */
static void join(shk_net *n, shk_act *out, const shk_act *y, const shk_act *x, const float *norm) {
    if (norm) n->t->rmsnorm(n->dev, out, y, norm, x, n->N, n->c->hidden, (float)n->c->eps);
    else n->t->add(n->dev, out, x, n->N * n->c->hidden);
}

static void layer(shk_net *n, uint32_t l) {
    const shk_layer *w = &n->W.layers[l];
    const shk_acts *a = &n->acts[l];
    shk_act *x = stream(n, l), *next = stream(n, l + 1);
    size_t N = n->N, d = n->c->hidden;
    float eps = (float)n->c->eps;

    n->t->rmsnorm(n->dev, a->mixer_in, x, w->pre_mixer_norm, NULL, N, d, eps);
    shk_act *y = w->post_mixer_norm ? a->mixer_out : a->mid;
    if (n->c->layers[l].mixer == SHK_MIXER_RECURRENT) shk_net_recurrent(n, l, y, a->mixer_in);
    else shk_net_attention(n, l, y, a->mixer_in);
    join(n, a->mid, y, x, w->post_mixer_norm);

    n->t->rmsnorm(n->dev, a->mlp_in, a->mid, w->pre_mlp_norm, NULL, N, d, eps);
    y = w->post_mlp_norm ? a->mlp_out : next;
    shk_net_mlp(n, l, y, a->mlp_in);
    join(n, next, y, a->mid, w->post_mlp_norm);
}

static float embedding_scale(const shk_config *c) {
    double scale = sqrt((double)c->hidden);
    return shk_families[c->family].embed_scale_bf16 ? shk_bf16_to_f32(shk_f32_to_bf16((float)scale)) : (float)scale;
}

/* ---- backward ---- */

/* The gradient of a slot's output, which is that of the stream but for the norm between them. */
static const shk_act *output_grad(shk_net *n, const shk_act *y, const float *norm, const float *dnorm) {
    if (!norm) return n->s.dx;
    n->t->rmsnorm_grad(n->dev, n->s.dy, shk_grad(dnorm), n->s.dx, y, norm, n->N, n->c->hidden, (float)n->c->eps, false);
    return n->s.dy;
}

/* dx += the gradient of the stream before a slot, from s.dn, that of its normalised input */
static void input_grad(shk_net *n, const shk_act *x, const float *norm, const float *dnorm) {
    n->t->rmsnorm_grad(n->dev, n->s.dx, shk_grad(dnorm), n->s.dn, x, norm, n->N, n->c->hidden, (float)n->c->eps, true);
}

static void layer_grad(shk_net *n, uint32_t l) {
    const shk_layer *w = &n->W.layers[l], *g = &n->G.layers[l];
    const shk_acts *a = &n->acts[l];
    const shk_act *dy = output_grad(n, a->mlp_out, w->post_mlp_norm, g->post_mlp_norm);
    shk_net_mlp_grad(n, l, n->s.dn, dy, a->mlp_in);
    input_grad(n, a->mid, w->pre_mlp_norm, g->pre_mlp_norm);

    dy = output_grad(n, a->mixer_out, w->post_mixer_norm, g->post_mixer_norm);
    if (n->c->layers[l].mixer == SHK_MIXER_RECURRENT) shk_net_recurrent_grad(n, l, n->s.dn, dy, a->mixer_in);
    else shk_net_attention_grad(n, l, n->s.dn, dy, a->mixer_in);
    input_grad(n, stream(n, l), w->pre_mixer_norm, g->pre_mixer_norm);
}

/* ---- the whole ---- */

/* Losses of all rows, and the gradient of the last norm's output in s.dn: logits exist for some rows at a time. */
static void head(shk_net *n, bool train, float z_weight, float scale) {
    const shk_config *c = n->c;
    size_t d = c->hidden;
    n->t->rmsnorm(n->dev, n->s.last, stream(n, c->n_layers), n->W.final_norm, NULL, n->N, d, (float)c->eps);
    for (size_t i = 0; i < n->N; i += n->rows) {
        size_t rows = n->N - i < n->rows ? n->N - i : n->rows;
        const shk_act *x = shk_act_at(n, n->s.last, i * d);
        n->t->linear(n->dev, n->s.logits, x, d, &n->W.output, NULL, rows);
        n->t->cross_entropy(n->dev, n->s.loss + i, n->s.logits, n->batch.targets + i, rows, c->vocab, (float)c->final_softcap,
                            z_weight, scale);
        if (!train) continue;
        n->t->linear_grad_x(n->dev, shk_act_at(n, n->s.dn, i * d), d, n->s.logits, &n->W.output, rows, false);
        n->t->linear_grad_w(n->dev, shk_grad(n->G.output.data), NULL, n->s.logits, x, d, c->vocab, d, rows);
    }
}

static void backward(shk_net *n) {
    const shk_config *c = n->c;
    n->t->rmsnorm_grad(n->dev, n->s.dx, shk_grad(n->G.final_norm), n->s.dn, stream(n, c->n_layers), n->W.final_norm, n->N,
                       c->hidden, (float)c->eps, false);
    for (uint32_t l = c->n_layers; l-- > 0;) {
        if (n->options.recompute && l + 1 < c->n_layers) layer(n, l);
        layer_grad(n, l);
    }
    n->t->embed_grad(n->dev, shk_grad(n->G.embed.data), n->s.dx, n->batch.tokens, n->N, c->hidden, embedding_scale(c));
}

/* What device memory would be read outside of, otherwise. */
static shk_status check(const shk_net *n, const int32_t *tokens, const int32_t *targets, const int32_t *first, shk_error *err) {
    for (size_t i = 0; i < n->N; i++) {
        int32_t t = (int32_t)(i % n->options.T), before = t ? first[i - 1] : 0, V = (int32_t)n->c->vocab;
        if (tokens[i] < 0 || tokens[i] >= V || targets[i] < -1 || targets[i] >= V)
            return shk_fail(err, SHK_E_ARGUMENT, "token %d is outside the vocabulary of %d",
                            tokens[i] < 0 || tokens[i] >= V ? tokens[i] : targets[i], V);
        if (first[i] < before || first[i] > t || (first[i] != before && first[i] != t))
            return shk_fail(err, SHK_E_ARGUMENT, "row %zu: a document cannot begin at %d", i, first[i]);
    }
    return SHK_OK;
}

shk_status shk_net_start(shk_net *n, const int32_t *tokens, const int32_t *targets, const int32_t *first, bool train,
                         float z_weight, float scale, shk_error *err) {
    shk_status st = check(n, tokens, targets, first, err);
    if (st) return st;
    n->ops->upload(n->dev, (void *)n->batch.tokens, tokens, n->N * sizeof *tokens);
    n->ops->upload(n->dev, (void *)n->batch.targets, targets, n->N * sizeof *targets);
    n->ops->upload(n->dev, (void *)n->batch.first, first, n->N * sizeof *first);
    n->t->embed(n->dev, stream(n, 0), &n->W.embed, n->batch.tokens, n->N, embedding_scale(n->c));
    for (uint32_t l = 0; l < n->c->n_layers; l++) layer(n, l);
    head(n, train, z_weight, scale);
    if (train) backward(n);
    return SHK_OK;
}

shk_status shk_net_finish(shk_net *n, double *sum, shk_error *err) {
    n->ops->download(n->dev, n->host_loss, n->s.loss, n->N * sizeof *n->host_loss);
    *sum = 0;
    for (size_t i = 0; i < n->N; i++) *sum += (double)n->host_loss[i];
    return n->ops->end(n->dev, true, err);
}

shk_status shk_net_run(shk_net *n, const int32_t *tokens, const int32_t *targets, const int32_t *first, bool train, float z_weight,
                       float scale, double *sum, shk_error *err) {
    shk_status st = shk_net_start(n, tokens, targets, first, train, z_weight, scale, err);
    return st ? st : shk_net_finish(n, sum, err);
}
