/* Global, local and spark attention, forward and backward (docs/MODEL.md). */
#include <math.h>

#include "train/net.h"

static shk_attention attention_of(const shk_net *n, uint32_t l) {
    const shk_config *c = n->c;
    bool spark = c->layers[l].mixer == SHK_MIXER_SPARK;
    return (shk_attention){ .heads = c->heads,
                            .kv_heads = c->kv_heads,
                            .head_dim = c->head_dim,
                            .window = c->layers[l].window,
                            .softcap = spark ? 0 : (float)c->attn_softcap,
                            .rank = spark ? c->attn_rank : 0,
                            .k = c->attn_k,
                            .ddof = c->std_ddof };
}

static void rope(shk_net *n, uint32_t l, shk_act *x, float *const *tables, size_t heads, bool back) {
    bool spark = n->c->layers[l].mixer == SHK_MIXER_SPARK;
    for (int part = 0; part < (spark ? 2 : 1); part++) {
        size_t r = n->m->layer_rope[l][part];
        n->t->rope(n->dev, x, tables[r], &n->batch, n->m->ropes[r].half, heads, n->c->head_dim, part ? n->c->attn_rank : 0, back);
    }
}

/* Queries are scaled as they are rotated, or before that where a part of a head is not. */
static void rope_queries(shk_net *n, uint32_t l, shk_act *q, bool back) {
    const uint8_t *r = n->m->layer_rope[l];
    size_t rotated = 2 * n->m->ropes[r[0]].half, D = n->c->head_dim;
    if (n->c->layers[l].mixer == SHK_MIXER_SPARK) rotated += 2 * n->m->ropes[r[1]].half;
    if (rotated < D) n->t->scale(n->dev, q, n->N * n->c->heads * D, (float)(1 / sqrt(n->c->q_scalar)));
    rope(n, l, q, rotated < D ? n->ropes : n->q_ropes, n->c->heads, back);
}

/* x = W in, normalised where it has a norm; raw is what comes before that */
static void project(shk_net *n, shk_act *x, shk_act *raw, const shk_act *in, const shk_mat *W, const float *norm) {
    n->t->linear(n->dev, norm ? raw : x, in, n->c->hidden, W, NULL, n->N);
    if (norm) n->t->rmsnorm(n->dev, x, raw, norm, NULL, n->N * (W->rows / n->c->head_dim), n->c->head_dim, (float)n->c->eps);
}

/* din (+)= and dW +=, from dx; s.dout is overwritten where there is a norm */
static void project_grad(shk_net *n, shk_act *din, bool add, const shk_act *dx, const shk_act *raw, const shk_act *in,
                         const shk_mat *W, const shk_mat *dW, const float *norm, const float *dnorm) {
    size_t d = n->c->hidden, D = n->c->head_dim;
    if (norm) {
        n->t->rmsnorm_grad(n->dev, n->s.dout, shk_grad(dnorm), dx, raw, norm, n->N * (W->rows / D), D, (float)n->c->eps, false);
        dx = n->s.dout;
    }
    n->t->linear_grad_x(n->dev, din, d, dx, W, n->N, add);
    n->t->linear_grad_w(n->dev, shk_grad(dW->data), NULL, dx, in, d, W->rows, d, n->N);
}

void shk_net_attention(shk_net *n, uint32_t l, shk_act *out, const shk_act *in) {
    const shk_layer *w = &n->W.layers[l];
    const shk_acts *x = &n->acts[l];
    const shk_attention a = attention_of(n, l);
    project(n, x->q, x->q_raw, in, &w->q, w->q_norm);
    project(n, x->k, x->k_raw, in, &w->k, w->k_norm);
    project(n, x->v, NULL, in, &w->v, NULL);
    rope_queries(n, l, x->q, false);
    rope(n, l, x->k, n->ropes, a.kv_heads, false);
    n->t->attention(n->dev, x->o, x->lse, x->kept, x->q, x->k, x->v, &n->batch, &a, n->s.work);
    n->t->linear(n->dev, out, x->o, w->o.cols, &w->o, w->o_bias, n->N);
}

void shk_net_attention_grad(shk_net *n, uint32_t l, shk_act *din, const shk_act *dy, const shk_act *in) {
    const shk_layer *w = &n->W.layers[l], *g = &n->G.layers[l];
    const shk_acts *x = &n->acts[l];
    const shk_scratch *s = &n->s;
    const shk_attention a = attention_of(n, l);
    n->t->linear_grad_x(n->dev, s->dout, w->o.cols, dy, &w->o, n->N, false);
    n->t->linear_grad_w(n->dev, shk_grad(g->o.data), shk_grad(g->o_bias), dy, x->o, w->o.cols, w->o.rows, w->o.cols, n->N);
    n->t->attention_grad(n->dev, s->dq, s->dk, s->dv, s->dout, x->o, x->lse, x->kept, x->q, x->k, x->v, &n->batch, &a, s->work);
    rope_queries(n, l, s->dq, true);
    rope(n, l, s->dk, n->ropes, a.kv_heads, true);
    project_grad(n, din, false, s->dq, x->q_raw, in, &w->q, &g->q, w->q_norm, g->q_norm);
    project_grad(n, din, true, s->dk, x->k_raw, in, &w->k, &g->k, w->k_norm, g->k_norm);
    project_grad(n, din, true, s->dv, NULL, in, &w->v, &g->v, NULL, NULL);
}
