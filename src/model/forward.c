/* One pass of tokens through a model. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "model/model.h"

static shk_status append(shk_counts *to, const uint32_t *n, size_t count, shk_error *err) {
    if (to->used + count > to->room) {
        size_t room = to->room * 2 + count;
        uint32_t *grown = shk_realloc(to->n, room, sizeof *grown);
        if (!grown) return shk_fail(err, SHK_E_MEMORY, "no memory to record active units");
        to->n = grown;
        to->room = room;
    }
    for (size_t i = 0; i < count; i++) to->n[to->used++] = n[i];
    return SHK_OK;
}

static shk_status record(shk_model *m, const shk_pass *pass, uint32_t l, shk_error *err) {
    uint32_t n[1024]; /* rows of a pass, or the most heads that a config may have */
    const shk_layer_config *lc = &m->config.layers[l];
    shk_status st = SHK_OK;
    if (lc->mlp != SHK_MLP_GATED) {
        m->ops->download(m->dev, n, m->b.active.n, pass->T * sizeof *n);
        st = append(&m->ffn_counts[l], n, pass->T, err);
    }
    for (size_t t = 0, heads = m->config.heads; !st && lc->mixer == SHK_MIXER_SPARK && t < pass->T; t++) {
        m->ops->download(m->dev, n, m->b.kept + t * heads, heads * sizeof *n);
        st = append(&m->attn_counts[l], n, heads, err);
    }
    return st;
}

static void layer(shk_model *m, const shk_pass *pass, uint32_t l) {
    const shk_config *c = &m->config;
    const shk_layer *w = &m->weights.layers[l];
    const shk_buffers *b = &m->b;
    size_t T = pass->T, d = c->hidden;
    float eps = (float)c->eps;

    m->ops->rmsnorm(m->dev, b->n, b->x, w->pre_mixer_norm, T, d, eps);
    if (c->layers[l].mixer == SHK_MIXER_RECURRENT) shk_mixer_recurrent(m, pass, l, b->y, b->n);
    else shk_mixer_attention(m, pass, l, b->y, b->n);
    if (w->post_mixer_norm) m->ops->rmsnorm(m->dev, b->y, b->y, w->post_mixer_norm, T, d, eps);
    m->ops->add(m->dev, b->x, b->y, T * d);

    m->ops->rmsnorm(m->dev, b->n, b->x, w->pre_mlp_norm, T, d, eps);
    shk_mlp_forward(m, pass, l, b->y, b->n);
    if (w->post_mlp_norm) m->ops->rmsnorm(m->dev, b->y, b->y, w->post_mlp_norm, T, d, eps);
    m->ops->add(m->dev, b->x, b->y, T * d);
}

/* Logits of the output rows [from, from + n). true: of those that are wanted alone, which are finite. */
static bool head(shk_model *m, const shk_pass *pass, const shk_output *out, size_t from, size_t n) {
    const shk_config *c = &m->config;
    const shk_buffers *b = &m->b;
    const shk_mat *W = &m->weights.output;
    float cap = (float)c->final_softcap;
    shk_wanted wanted[SHK_PASS_ROWS];
    bool some = W->coarse != NULL;
    for (size_t i = 0; i < n; i++) {
        wanted[i] = out[from + i].wanted;
        some &= wanted[i].k > 0;
    }
    m->ops->gather(m->dev, b->last, b->x, pass, from, n, c->hidden);
    m->ops->rmsnorm(m->dev, b->last, b->last, m->weights.final_norm, n, c->hidden, (float)c->eps);
    if (some && m->ops->linear_best(m->dev, b->logits, b->last, W, cap, wanted, n)) return true;
    m->ops->linear(m->dev, b->logits, b->last, c->hidden, W, NULL, n);
    if (cap > 0) m->ops->softcap(m->dev, b->logits, n * c->vocab, cap);
    if (m->ops->best) m->ops->best(m->dev, b->best, b->logits, n, c->vocab);
    return false;
}

static bool all_finite(const float *v, size_t n) {
    float sum = 0; /* a NaN or an infinity makes it a NaN */
    for (size_t i = 0; i < n; i++) sum += v[i] * 0.0f;
    return sum == 0.0f;
}

/* Takes n rows from the device; where it has found the best value of each, that is all that a greedy choice needs. `some`: what
 * `head` has said. Where all values are wanted, one that is not finite is an error. */
static shk_status deliver(shk_model *m, const shk_output *out, size_t n, bool some, shk_error *err) {
    shk_best best[SHK_PASS_ROWS];
    size_t vocab = m->config.vocab;
    bool found = m->ops->best != NULL;
    memset(best, 0xff, sizeof best); /* no ids, should the download fail */
    if (found) m->ops->download(m->dev, best, m->b.best, n * sizeof *best);
    for (size_t i = 0; i < n; i++) {
        float *logits = out[i].logits;
        bool finite = !found || best[i].id >= 0;
        if (finite && found && out[i].wanted.k == 1 && out[i].wanted.drop <= 0) {
            for (size_t v = 0; v < vocab; v++) logits[v] = -INFINITY;
            logits[best[i].id] = best[i].value;
        } else m->ops->download(m->dev, logits, m->b.logits + i * vocab, vocab * sizeof *logits);
        if (finite && (found || some || all_finite(logits, vocab))) continue;
        shk_status st = shk_weights_check_finite(shk_model_tensors(m), err);
        return st ? st : shk_fail(err, SHK_E_NUMERIC, "%s: the logits are not finite", m->path);
    }
    return SHK_OK;
}

static shk_status body(shk_model *m, const shk_pass *pass, shk_error *err) {
    const shk_config *c = &m->config;
    bool altup = c->family == SHK_GEMMA3N;
    double scale = sqrt((double)c->hidden);
    if (shk_families[c->family].embed_scale_bf16) scale = shk_bf16_to_f32(shk_f32_to_bf16((float)scale));

    m->ops->embed(m->dev, m->b.x, &m->weights.embed, pass, (float)scale);
    for (size_t i = 0; i < m->n_ropes; i++) m->ops->rope_table(m->dev, m->ropes[i].table, m->ropes[i].freq, m->ropes[i].half, pass);
    if (altup) shk_gemma3n_begin(m, pass);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        if (altup) shk_gemma3n_layer(m, pass, l);
        else layer(m, pass, l);
        shk_status st = m->recording ? record(m, pass, l, err) : SHK_OK;
        if (st) return st;
    }
    if (altup && pass->n_outputs) shk_gemma3n_end(m, pass);
    return SHK_OK;
}

shk_status shk_model_forward(shk_model *m, const shk_pass *pass, const shk_output *out, shk_error *err) {
    size_t n = pass->n_outputs, step = m->ops->logit_rows;
    shk_status st = SHK_OK;
    bool some = false; /* of the logits are known */
    if (!m->ops->begin(m->dev, pass, m->config.n_layers, !m->recording)) {
        st = body(m, pass, err);
        if (!st && n) some = head(m, pass, out, 0, n < step ? n : step);
    }
    shk_status ended = m->ops->end(m->dev, n > 0, st ? NULL : err);
    if (!st) st = ended;
    for (size_t i = 0; !st && i < n; i += step) {
        size_t rows = n - i < step ? n - i : step;
        if (i) some = head(m, pass, out, i, rows);
        st = deliver(m, out + i, rows, some, err);
    }
    return st;
}
