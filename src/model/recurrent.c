/* Griffin's recurrent block: a GELU branch gates convolution and RG-LRU (Griffin, sec. 2.4). */
#include "model/model.h"

void shk_mixer_recurrent(shk_model *m, const shk_pass *pass, uint32_t l, float *y, const float *n) {
    const shk_config *c = &m->config;
    const shk_layer *w = &m->weights.layers[l];
    const shk_buffers *b = &m->b;
    size_t T = pass->T, width = c->lru_width;

    m->ops->linear(m->dev, b->ry, n, c->hidden, &w->linear_y, w->linear_y_bias, T);
    m->ops->linear(m->dev, b->gi, n, c->hidden, &w->linear_x, w->linear_x_bias, T);
    m->ops->conv1d(m->dev, b->rx, b->gi, w->conv, w->conv_bias, pass, l, width, c->conv_width);
    m->ops->block_linear(m->dev, b->gi, b->rx, &w->input_gate, w->input_gate_bias, c->lru_blocks, T);
    m->ops->block_linear(m->dev, b->ga, b->rx, &w->recurrence_gate, w->recurrence_gate_bias, c->lru_blocks, T);
    m->ops->rglru(m->dev, b->rx, b->rx, b->gi, b->ga, w->lambda, pass, l, width);
    m->ops->gelu_mul(m->dev, b->ry, b->ry, b->rx, T * width);
    m->ops->linear(m->dev, y, b->ry, width, &w->linear_out, w->linear_out_bias, T);
}
