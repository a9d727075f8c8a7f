/* Griffin's recurrent block, forward and backward (docs/MODEL.md; Griffin, sec. 2.4). */
#include "train/net.h"

void shk_net_recurrent(shk_net *n, uint32_t l, shk_act *out, const shk_act *in) {
    const shk_config *c = n->c;
    const shk_layer *w = &n->W.layers[l];
    const shk_acts *x = &n->acts[l];
    const shk_train_ops *t = n->t;
    size_t N = n->N, d = c->hidden, width = c->lru_width;
    t->linear(n->dev, x->branch, in, d, &w->linear_y, w->linear_y_bias, N);
    t->linear(n->dev, x->line, in, d, &w->linear_x, w->linear_x_bias, N);
    t->conv1d(n->dev, x->conv, x->line, w->conv, w->conv_bias, &n->batch, width, c->conv_width);
    t->block_linear(n->dev, x->ia, x->conv, &w->input_gate, w->input_gate_bias, c->lru_blocks, N);
    t->block_linear(n->dev, x->ra, x->conv, &w->recurrence_gate, w->recurrence_gate_bias, c->lru_blocks, N);
    t->rglru(n->dev, x->h, x->conv, x->ia, x->ra, w->lambda, &n->batch, width);
    t->gelu_mul(n->dev, n->s.gated, x->branch, x->h, N * width);
    t->linear(n->dev, out, n->s.gated, width, &w->linear_out, w->linear_out_bias, N);
}

void shk_net_recurrent_grad(shk_net *n, uint32_t l, shk_act *din, const shk_act *dy, const shk_act *in) {
    const shk_config *c = n->c;
    const shk_layer *w = &n->W.layers[l], *g = &n->G.layers[l];
    const shk_acts *x = &n->acts[l];
    const shk_train_ops *t = n->t;
    shk_act *dh = n->s.dgated, *dbranch = n->s.dbranch, *dconv = n->s.gated, *dline = n->s.dline;
    size_t N = n->N, d = c->hidden, width = c->lru_width;

    t->linear_grad_x(n->dev, n->s.dgated, width, dy, &w->linear_out, N, false);
    t->gelu_mul_grad(n->dev, dbranch, dh, n->s.gated, n->s.dgated, x->branch, x->h, N * width);
    t->linear_grad_w(n->dev, shk_grad(g->linear_out.data), shk_grad(g->linear_out_bias), dy, n->s.gated, width, d, width, N);
    t->rglru_grad(n->dev, dconv, n->s.dia, n->s.dra, shk_grad(g->lambda), dh, x->h, x->conv, x->ia, x->ra, w->lambda, &n->batch,
                  width);
    t->block_linear_grad(n->dev, dconv, shk_grad(g->input_gate.data), shk_grad(g->input_gate_bias), n->s.dia, x->conv,
                         &w->input_gate, c->lru_blocks, N, true);
    t->block_linear_grad(n->dev, dconv, shk_grad(g->recurrence_gate.data), shk_grad(g->recurrence_gate_bias), n->s.dra, x->conv,
                         &w->recurrence_gate, c->lru_blocks, N, true);
    t->conv1d_grad(n->dev, dline, shk_grad(g->conv), shk_grad(g->conv_bias), dconv, x->line, w->conv, &n->batch, width,
                   c->conv_width);
    t->linear_grad_x(n->dev, din, d, dbranch, &w->linear_y, N, false);
    t->linear_grad_x(n->dev, din, d, dline, &w->linear_x, N, true);
    t->linear_grad_w(n->dev, shk_grad(g->linear_y.data), shk_grad(g->linear_y_bias), dbranch, in, d, width, d, N);
    t->linear_grad_w(n->dev, shk_grad(g->linear_x.data), shk_grad(g->linear_x_bias), dline, in, d, width, d, N);
}
