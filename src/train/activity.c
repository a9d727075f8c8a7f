#include "train/activity.h"

#include <math.h>
#include <stdlib.h>

bool shk_activity_new(shk_activity *a, const shk_config *c) {
    *a = (shk_activity){ .layers = c->n_layers, .neurons = shk_calloc(2 * (size_t)c->n_layers, sizeof *a->neurons) };
    if (a->neurons) a->positions = a->neurons + a->layers;
    return a->neurons != NULL;
}

void shk_activity_free(shk_activity *a) {
    free(a->neurons);
    *a = (shk_activity){ 0 };
}

/* How many were active, on average over n thresholds in device memory. */
static double mean_active(const shk_net *n, const shk_threshold *th, size_t count) {
    enum { PIECE = 4096 };
    shk_threshold some[PIECE];
    double sum = 0;
    for (size_t i = 0; i < count; i += PIECE) {
        size_t k = count - i < PIECE ? count - i : PIECE;
        n->ops->download(n->dev, some, th + i, k * sizeof *some);
        for (size_t j = 0; j < k; j++) sum += (double)some[j].active;
    }
    return sum / (double)count;
}

void shk_activity_measure(shk_activity *a, const shk_net *n) {
    for (size_t l = 0; l < a->layers; l++) {
        const shk_layer_config *lc = &n->c->layers[l];
        bool known = !n->options.recompute;
        a->neurons[l] = known && lc->mlp != SHK_MLP_GATED ? mean_active(n, n->acts[l].active, n->N) / lc->ffn : NAN;
        a->positions[l] = known && lc->mixer == SHK_MIXER_SPARK ? mean_active(n, n->acts[l].kept, n->N * n->c->heads) : NAN;
    }
}

void shk_activity_add_up(shk_activity *a, const shk_config *c) {
    double active = 0, of = 0;
    for (size_t l = 0; l < a->layers; l++)
        if (!isnan(a->neurons[l])) active += a->neurons[l] * c->layers[l].ffn, of += c->layers[l].ffn;
    a->share = of > 0 ? active / of : NAN;
}
