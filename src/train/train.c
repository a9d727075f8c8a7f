/* shk_train: the loop. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "sparkhawk_train.h"
#include "train/checkpoint.h"
#include "train/record.h"

typedef struct trainer {
    shk_settings set;
    shk_data train, held_out;
    shk_net *net;
    shk_train_state state;
    void *moments;
    size_t moment_bytes;
    shk_record record;
    int lock;                 /* of the output directory; -1: none */
    char *from;               /* the checkpoint or model that was loaded */
    const char *tokenizer;    /* goes into checkpoints */
    bool resumed;
    int32_t *tokens, *targets, *first; /* [accumulate, B T] */
    size_t N, accumulate;
    double seconds;           /* spent in the steps since first_step */
    uint64_t first_step;
} trainer;

/* ---- the beginning ---- */

static shk_status open_net(trainer *t, shk_error *err) {
    const shk_settings *s = &t->set;
    shk_model *m;
    shk_model_params params = { .threads = (int)s->threads };
    shk_net_options o = { (size_t)s->batch, (size_t)s->length, strcmp(s->compute, "bf16") == 0, s->recompute };
    shk_status st = shk_checkpoint_find(s->out, &t->from, err);
    if (st) return st;
    t->resumed = t->from != NULL;
    if (!t->resumed && !(t->from = shk_strdup(s->model))) return shk_fail(err, SHK_E_MEMORY, "no memory");
    t->tokenizer = s->tokenizer ? s->tokenizer : t->from;
    st = shk_model_load(&m, t->from, &params, err);
    if (!st) st = shk_net_new(&t->net, m, &o, err);
    if (st) return st;
    t->moment_bytes = 2 * t->net->params.size * sizeof(float);
    t->moments = t->net->ops->alloc(t->net->dev, t->moment_bytes);
    if (!t->moments) return shk_fail(err, SHK_E_MEMORY, "no memory for %zu bytes of optimizer state", t->moment_bytes);
    t->state.m = t->moments;
    t->state.v = t->state.m + t->net->params.size;
    return t->resumed ? shk_checkpoint_read(t->net, &t->state, t->from, err) : SHK_OK;
}

/* Makes the output directory this run's alone: two would mix their checkpoints. The lock ends with the process. */
static shk_status claim(trainer *t, shk_error *err) {
    const char *out = t->set.out;
    if (mkdir(out, 0777) != 0 && errno != EEXIST) return shk_fail_errno(err, "%s", out);
    t->lock = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->lock < 0) return shk_fail_errno(err, "%s", out);
    if (flock(t->lock, LOCK_EX | LOCK_NB) != 0) return shk_fail(err, SHK_E_ARGUMENT, "%s: another run writes there", out);
    return SHK_OK;
}

static shk_status begin(trainer *t, const char *config, const char *const *settings, size_t n_settings, shk_error *err) {
    shk_status st = shk_settings_read(&t->set, config, settings, n_settings, err);
    if (st) return st;
    st = claim(t, err);
    if (!st) st = shk_data_open(&t->train, t->set.data, "train", (size_t)t->set.length, err);
    if (!st && t->set.eval_every > 0) st = shk_data_open(&t->held_out, t->set.data, "held-out", (size_t)t->set.length, err);
    if (!st) st = open_net(t, err);
    if (!st) st = shk_record_open(&t->record, t->set.out, t->state.step, err);
    if (st) return st;
    t->N = t->net->N, t->accumulate = (size_t)t->set.accumulate, t->first_step = t->state.step;
    t->tokens = shk_calloc(t->N * t->accumulate, sizeof *t->tokens);
    t->targets = shk_calloc(t->N * t->accumulate, sizeof *t->targets);
    t->first = shk_calloc(t->N * t->accumulate, sizeof *t->first);
    if (!t->tokens || !t->targets || !t->first) return shk_fail(err, SHK_E_MEMORY, "no memory for a batch");
    if (t->train.n_pieces <= t->state.place.piece)
        return shk_fail(err, SHK_E_ARGUMENT, "%s: the checkpoint was made with other data: it is at piece %llu of %llu", t->from,
                        (unsigned long long)t->state.place.piece, (unsigned long long)t->train.n_pieces);
    return SHK_OK;
}

/* ---- when something is wrong ---- */

static unsigned long long document_of(const trainer *t, const shk_place *at, size_t row) {
    return shk_data_document(&t->train, at, (uint64_t)t->set.seed, row);
}

/* Where a step went wrong: the first parameter, loss of a row (of a part of the batch) or gradient that is not finite. */
static shk_status diagnose(trainer *t, const shk_place *at, size_t part, shk_error *err) {
    const shk_param *which;
    const shk_net *n = t->net;
    unsigned long long step = t->state.step + 1;
    size_t bytes = n->params.size * sizeof(float), T = (size_t)t->set.length, i;
    float *host = shk_calloc(n->params.size, sizeof *host);
    if (!host) return shk_fail(err, SHK_E_MEMORY, "no memory");
    shk_status st = SHK_OK;
    n->ops->download(n->dev, host, n->w, bytes);
    if ((i = shk_params_not_finite(&n->params, host, &which)) != SIZE_MAX)
        st = shk_fail(err, SHK_E_NUMERIC, "step %llu: value %zu of %s is not finite", step, i, which->name);
    for (i = 0; !st && i < t->N; i++)
        if (!isfinite(n->host_loss[i]))
            st = shk_fail(err, SHK_E_NUMERIC, "step %llu: the loss of token %zu in sequence %zu is not finite (document %llu)",
                          step, i % T, i / T, document_of(t, at, part * t->N + i));
    n->ops->download(n->dev, host, n->g, bytes);
    if (!st && (i = shk_params_not_finite(&n->params, host, &which)) != SIZE_MAX)
        st = shk_fail(err, SHK_E_NUMERIC, "step %llu: the gradient of value %zu of %s is not finite", step, i, which->name);
    if (!st) st = shk_fail(err, SHK_E_NUMERIC, "step %llu: the gradient's norm is not finite", step);
    free(host);
    return st;
}

/* The average follows the loss with a memory of about 50 steps. */
static shk_status check_jump(trainer *t, double loss, const shk_place *at, shk_error *err) {
    enum { SETTLED = 20 };
    double *average = &t->state.average;
    if (t->state.step == 0) *average = loss;
    if (t->set.spike > 0 && t->state.step >= SETTLED && loss > *average + t->set.spike) {
        size_t worst = 0;
        for (size_t i = 1; i < t->N; i++)
            if (t->net->host_loss[i] > t->net->host_loss[worst]) worst = i;
        return shk_fail(err, SHK_E_NUMERIC, "step %llu: the loss jumped to %.4f from an average of %.4f; the worst token is in "
                                            "document %llu; lower rate, or raise spike",
                        (unsigned long long)t->state.step + 1, loss, *average,
                        document_of(t, at, (t->accumulate - 1) * t->N + worst));
    }
    *average += (loss - *average) * 0.02;
    return SHK_OK;
}

/* ---- a step ---- */

/* Ranges of the array that are treated alike go together. */
static void update(trainer *t, double rate, double scale) {
    const shk_net *n = t->net;
    const shk_params *p = &n->params;
    double step = (double)t->state.step + 1;
    shk_adamw a = { .rate = (float)rate, .beta1 = (float)t->set.beta1, .beta2 = (float)t->set.beta2, .eps = (float)t->set.eps,
                    .correct1 = (float)(1 - pow(t->set.beta1, step)), .correct2 = (float)(1 - pow(t->set.beta2, step)),
                    .scale = (float)scale };
    for (size_t i = 0, j; i < p->n; i = j) {
        for (j = i + 1; j < p->n && shk_param_decays(&p->items[j]) == shk_param_decays(&p->items[i]);) j++;
        size_t at = p->items[i].at, end = j < p->n ? p->items[j].at : p->size;
        a.decay = shk_param_decays(&p->items[i]) ? (float)t->set.weight_decay : 0;
        n->t->adamw(n->dev, n->w + at, t->state.m + at, t->state.v + at, n->g + at, end - at, &a);
    }
}

static shk_status one_step(trainer *t, shk_train_progress *p, shk_error *err) {
    shk_net *n = t->net;
    shk_place at = t->state.place, next = at;
    size_t targets = t->accumulate * t->N;
    double sum = 0, part;
    for (size_t i = 0; i < t->accumulate; i++)
        shk_data_next(&t->train, &next, (uint64_t)t->set.seed, (size_t)t->set.batch, t->tokens + i * t->N, t->targets + i * t->N,
                      t->first + i * t->N);
    n->t->zero(n->dev, n->g, n->params.size * sizeof(float));
    for (size_t i = 0; i < t->accumulate; i++) {
        shk_status st = shk_net_run(n, t->tokens + i * t->N, t->targets + i * t->N, t->first + i * t->N, true, (float)t->set.z_loss,
                                    (float)(1 / (double)targets), &part, err);
        if (st) return st;
        sum += part;
        if (!isfinite(part)) return diagnose(t, &at, i, err);
    }
    p->loss = sum / (double)targets;
    p->norm = sqrt(n->t->sum_squares(n->dev, n->g, n->params.size));
    p->rate = shk_settings_rate(&t->set, t->state.step);
    if (!isfinite(p->norm)) return diagnose(t, &at, t->accumulate - 1, err);
    shk_status st = check_jump(t, p->loss, &at, err);
    if (st) return st;
    update(t, p->rate, t->set.clip > 0 && p->norm > t->set.clip ? t->set.clip / p->norm : 1);
    t->state.place = next;
    t->state.step++;
    return SHK_OK;
}

/* Mean loss over the first batches of the held-out documents. */
static shk_status evaluate(trainer *t, double *loss, shk_error *err) {
    shk_place at = { 0 };
    double sum = 0, part;
    size_t targets = 0;
    for (; targets < (size_t)t->set.eval_batches * t->N && at.epoch == 0; targets += t->N) {
        shk_data_next(&t->held_out, &at, 0, (size_t)t->set.batch, t->tokens, t->targets, t->first);
        shk_status st = shk_net_run(t->net, t->tokens, t->targets, t->first, false, 0, 1, &part, err);
        if (st) return st;
        sum += part;
    }
    *loss = sum / (double)targets;
    return SHK_OK;
}

/* Mean share of active neurons over the sparse layers, in the batch that was last run; NaN if there are none. */
static double active_share(const trainer *t) {
    const shk_net *n = t->net;
    double sum = 0, of = 0;
    shk_threshold th[256];
    for (uint32_t l = 0; l < n->c->n_layers && !n->options.recompute; l++)
        for (size_t i = 0; n->c->layers[l].mlp != SHK_MLP_GATED && i < n->N; i += 256) {
            size_t k = n->N - i < 256 ? n->N - i : 256;
            n->ops->download(n->dev, th, n->acts[l].active + i, k * sizeof *th);
            for (size_t j = 0; j < k; j++) sum += (double)th[j].active, of += n->c->layers[l].ffn;
        }
    return of > 0 ? sum / of : NAN;
}

static bool every(double interval, uint64_t step) { return interval > 0 && step % (uint64_t)interval == 0; }

/* Evaluates, logs and saves what is due after a step. */
static shk_status after_step(trainer *t, shk_train_progress *p, bool last, char **saved, shk_error *err) {
    uint64_t step = t->state.step, done = step - t->first_step;
    double share = every(t->set.log_every, step) || last ? active_share(t) : NAN, tokens = (double)(t->N * t->accumulate);
    shk_status st = SHK_OK;
    p->step = step, p->held_out = NAN;
    p->tokens_per_s = tokens * (double)done / t->seconds;
    p->remaining_s = t->seconds / (double)done * (t->set.steps - (double)step);
    if (every(t->set.eval_every, step) || (last && t->held_out.n)) st = evaluate(t, &p->held_out, err);
    if (!st && (every(t->set.log_every, step) || !isnan(p->held_out) || last)) {
        st = shk_record_add(&t->record, p, step * t->N * t->accumulate, share, err);
        if (!st) st = shk_record_draw(&t->record, p, last ? 0 : 2, err);
    }
    if (!st && (every(t->set.save_every, step) || last))
        st = shk_checkpoint_write(t->net, &t->state, &t->set, t->tokenizer, saved, err);
    p->saved = *saved;
    return st;
}

static shk_status loop(trainer *t, int (*on_step)(void *user, const shk_train_progress *p), void *user, shk_error *err) {
    shk_train_progress p = { .steps = (uint64_t)t->set.steps };
    bool stop = false;
    while (t->state.step < p.steps && !stop) {
        char *saved = NULL;
        double began = shk_seconds();
        shk_status st = one_step(t, &p, err);
        t->seconds += shk_seconds() - began;
        bool last = t->state.step == p.steps;
        if (!st) st = after_step(t, &p, last, &saved, err);
        if (!st && on_step && on_step(user, &p)) stop = true;
        if (!st && stop && !saved) {
            st = shk_checkpoint_write(t->net, &t->state, &t->set, t->tokenizer, &saved, err);
            p.saved = saved;
            if (!st) on_step(user, &p);
        }
        free(saved);
        if (st) return st;
    }
    return SHK_OK;
}

shk_status shk_train(const char *config, const char *const *settings, size_t n_settings,
                     int (*on_step)(void *user, const shk_train_progress *p), void *user, shk_error *err) {
    trainer t = { .record = { .file = -1 }, .lock = -1 };
    shk_status st = begin(&t, config, settings, n_settings, err);
    if (!st) st = loop(&t, on_step, user, err);
    shk_record_close(&t.record);
    if (t.moments) t.net->ops->release(t.net->dev, t.moments, t.moment_bytes);
    shk_net_free(t.net);
    shk_data_close(&t.train);
    shk_data_close(&t.held_out);
    shk_settings_free(&t.set);
    if (t.lock >= 0) close(t.lock);
    free(t.tokens), free(t.targets), free(t.first), free(t.from);
    return st;
}
