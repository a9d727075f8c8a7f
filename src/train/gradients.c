/* shk_gradients: those of one text. */
#include <stdlib.h>

#include "error.h"
#include "sparkhawk_train.h"
#include "train/net.h"

static shk_status compute(shk_net *n, const int32_t *tokens, size_t T, const char *out, double *loss, shk_error *err) {
    int32_t *targets = shk_calloc(T, sizeof *targets), *first = shk_calloc(T, sizeof *first);
    float *g = shk_calloc(n->params.size, sizeof *g);
    double sum = 0;
    shk_status st = targets && first && g ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "no memory");
    for (size_t t = 0; !st && t < T; t++) targets[t] = t + 1 < T ? tokens[t + 1] : -1;
    if (!st) st = shk_net_run(n, tokens, targets, first, true, 0, 1 / (float)(T - 1), &sum, err);
    if (!st) {
        n->ops->download(n->dev, g, n->g, n->params.size * sizeof *g);
        st = shk_params_write(&n->params, out, &(shk_param_source){ .prefix = "", .array = g }, 1, err);
    }
    if (loss) *loss = sum / (double)(T - 1);
    free(targets);
    free(first);
    free(g);
    return st;
}

shk_status shk_gradients(const char *model, const shk_model_params *params, const int32_t *tokens, size_t n, const char *out,
                         double *loss, shk_error *err) {
    shk_model *m;
    shk_net *net;
    shk_model_params defaults = { 0 };
    if (n < 2) return shk_fail(err, SHK_E_ARGUMENT, "%zu tokens: a loss needs 2", n);
    shk_status st = shk_model_load(&m, model, params ? params : &defaults, err);
    if (!st) st = shk_net_new(&net, m, &(shk_net_options){ .B = 1, .T = n }, err);
    if (st) return st;
    st = compute(net, tokens, n, out, loss, err);
    shk_net_free(net);
    return st;
}
