/* Gated, topk and spark MLPs, forward and backward (docs/MODEL.md). */
#include "train/net.h"

typedef struct mlp {
    const shk_layer *w, *g;
    const shk_mat *gate;  /* or the predictor */
    float *dgate;
    size_t skip, f;       /* dims of the input that `up` does not see; neurons */
    shk_sparsity how;
} mlp;

static mlp mlp_of(const shk_net *n, uint32_t l) {
    const shk_layer *w = &n->W.layers[l], *g = &n->G.layers[l];
    bool spark = n->c->layers[l].mlp == SHK_MLP_SPARK;
    mlp p = { w, g, spark ? &w->predictor : &w->gate, shk_grad(spark ? g->predictor.data : g->gate.data),
              spark ? n->c->ffn_rank : 0, w->up.rows, { n->c->layers[l].active, n->c->std_ddof, false } };
    return p;
}

void shk_net_mlp(shk_net *n, uint32_t l, shk_act *out, const shk_act *in) {
    const mlp p = mlp_of(n, l);
    const shk_acts *x = &n->acts[l];
    size_t d = n->c->hidden;
    n->t->linear(n->dev, x->s, in, d, p.gate, p.w->gate_bias, n->N);
    n->t->linear(n->dev, x->u, shk_act_at(n, in, p.skip), d, &p.w->up, p.w->up_bias, n->N);
    if (n->c->layers[l].mlp == SHK_MLP_GATED) n->t->gelu_mul(n->dev, n->s.a, x->s, x->u, n->N * p.f);
    else n->t->topk_gelu_mul(n->dev, n->s.a, x->active, x->s, x->u, n->N, p.f, &p.how);
    n->t->linear(n->dev, out, n->s.a, p.f, &p.w->down, p.w->down_bias, n->N);
}

void shk_net_mlp_grad(shk_net *n, uint32_t l, shk_act *din, const shk_act *dy, const shk_act *in) {
    const mlp p = mlp_of(n, l);
    const shk_acts *x = &n->acts[l];
    const shk_train_ops *t = n->t;
    shk_act *da = n->s.da, *ds = n->s.ds, *du = n->s.da;
    const shk_act *rest = shk_act_at(n, in, p.skip);
    size_t d = n->c->hidden, N = n->N;

    t->linear_grad_x(n->dev, da, p.f, dy, &p.w->down, N, false);
    if (n->c->layers[l].mlp == SHK_MLP_GATED) t->gelu_mul_grad(n->dev, ds, du, n->s.a, da, x->s, x->u, N * p.f);
    else t->topk_gelu_mul_grad(n->dev, ds, du, n->s.a, da, x->active, x->s, x->u, N, p.f, &p.how);
    t->linear_grad_w(n->dev, shk_grad(p.g->down.data), shk_grad(p.g->down_bias), dy, n->s.a, p.f, d, p.f, N);
    t->linear_grad_x(n->dev, din, d, ds, p.gate, N, false);
    t->linear_grad_x(n->dev, shk_act_at(n, din, p.skip), d, du, &p.w->up, N, p.skip == 0); /* spark's see parts of the input */
    t->linear_grad_w(n->dev, p.dgate, shk_grad(p.g->gate_bias), ds, in, d, p.f, p.gate->cols, N);
    t->linear_grad_w(n->dev, shk_grad(p.g->up.data), shk_grad(p.g->up_bias), du, rest, d, p.f, p.w->up.cols, N);
}
