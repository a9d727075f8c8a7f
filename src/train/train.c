/* shk_train: the loop. Each rank runs its part of every batch; gradients are summed, each rank updates a shard of the parameters
 * and keeps the moments of that shard alone (ZeRO, stage 1: Rajbhandari et al., 2020), and shards are exchanged. */
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
#include "train/activity.h"
#include "train/checkpoint.h"
#include "train/record.h"

typedef struct trainer {
    shk_comm comm;
    shk_settings set;
    shk_data train, held_out;
    shk_net *net;
    shk_train_state state;
    void *moments;
    size_t moment_bytes;
    shk_record record;        /* rank 0's */
    shk_activity activity;
    int lock;                 /* of the output directory; -1: none */
    char *from;               /* the checkpoint or model that was loaded */
    const char *tokenizer;    /* goes into checkpoints */
    bool resumed;
    struct rows {
        int32_t *tokens, *targets, *first; /* [all] */
    } rows[3];                /* of the batch that is computed, of the next, of one that is held out */
    size_t next;              /* which of the first two is the next */
    shk_place fetched;        /* behind that */
    size_t N, all, mine, accumulate; /* rows that the net runs, those of a batch, and where in it the net's begin */
    double seconds;           /* spent in the steps since first_step */
    uint64_t first_step;
} trainer;

/* ---- the beginning ---- */

/* What to start from: what rank 0 finds in the output directory, else the model. */
static shk_status find_start(trainer *t, shk_error *err) {
    char found[4096] = "", *path = NULL;
    shk_status st = t->comm.rank == 0 ? shk_checkpoint_find(t->set.out, &path, err) : SHK_OK;
    if (!st && path && strlen(path) >= sizeof found) st = shk_fail(err, SHK_E_ARGUMENT, "%s: the name is too long", path);
    else if (!st && path) strcpy(found, path);
    free(path);
    st = shk_comm_agree(&t->comm, st, err);
    if (!st) st = t->comm.broadcast(&t->comm, found, sizeof found, 0, err);
    if (st) return st;
    t->resumed = *found != 0;
    t->from = shk_strdup(t->resumed ? found : t->set.model);
    t->tokenizer = t->set.tokenizer ? t->set.tokenizer : t->from;
    return shk_comm_agree(&t->comm, t->from ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "no memory"), err);
}

static shk_status open_net(trainer *t, shk_error *err) {
    const shk_settings *s = &t->set;
    shk_model *m;
    shk_model_params params = { .threads = (int)s->threads,
                                .device = strcmp(s->device, "cuda") == 0 ? SHK_DEVICE_CUDA : SHK_DEVICE_CPU };
    size_t ranks = (size_t)t->comm.size;
    shk_net_options o = { (size_t)s->batch / ranks, (size_t)s->length, strcmp(s->compute, "bf16") == 0, s->recompute, ranks };
    shk_status st = params.device == SHK_DEVICE_CUDA ? shk_comm_use_cuda(&t->comm, err) : SHK_OK;
    if (st) return st;
    st = shk_model_load(&m, t->from, &params, err);
    if (!st) st = shk_net_new(&t->net, m, &o, err);
    if (st) return st;
    t->state.n = t->net->params.size / ranks;
    t->state.at = (size_t)t->comm.rank * t->state.n;
    t->moment_bytes = 2 * t->state.n * sizeof(float);
    t->moments = t->net->ops->alloc(t->net->dev, t->moment_bytes);
    if (!t->moments) return shk_fail(err, SHK_E_MEMORY, "no memory for %zu bytes of optimizer state", t->moment_bytes);
    t->state.m = t->moments;
    t->state.v = t->state.m + t->state.n;
    if (!shk_activity_new(&t->activity, t->net->c)) return shk_fail(err, SHK_E_MEMORY, "no memory");
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

/* Reads the next batch. */
static void fetch(trainer *t) {
    const struct rows *r = &t->rows[t->next];
    shk_data_next(&t->train, &t->fetched, (uint64_t)t->set.seed, (size_t)t->set.batch, r->tokens, r->targets, r->first);
}

static shk_status read_settings(trainer *t, const char *config, const char *const *settings, size_t n, shk_error *err) {
    shk_status st = shk_settings_read(&t->set, config, settings, n, err);
    if (!st && (size_t)t->set.batch % (size_t)t->comm.size)
        st = shk_fail(err, SHK_E_ARGUMENT, "%s: a batch of %.0f cannot be divided among %d processes", config, t->set.batch,
                      t->comm.size);
    if (!st && t->comm.rank == 0 && t->set.tokenizer && access(t->set.tokenizer, R_OK) != 0)
        st = shk_fail_errno(err, "%s", t->set.tokenizer);
    if (!st && t->comm.rank == 0) st = claim(t, err);
    if (!st) st = shk_data_open(&t->train, t->set.data, "train", (size_t)t->set.length, err);
    if (!st && t->set.eval_every > 0) st = shk_data_open(&t->held_out, t->set.data, "held-out", (size_t)t->set.length, err);
    return st;
}

static shk_status make_room(trainer *t, shk_error *err) {
    t->N = t->net->N, t->all = t->N * (size_t)t->comm.size, t->mine = t->N * (size_t)t->comm.rank;
    t->accumulate = (size_t)t->set.accumulate, t->first_step = t->state.step;
    for (size_t i = 0; i < 3; i++) {
        int32_t *p = t->rows[i].tokens = shk_calloc(3 * t->all, sizeof *p);
        if (!p) return shk_fail(err, SHK_E_MEMORY, "no memory for a batch");
        t->rows[i].targets = p + t->all, t->rows[i].first = p + 2 * t->all;
    }
    if (t->train.n_pieces <= t->state.place.piece)
        return shk_fail(err, SHK_E_ARGUMENT, "%s: the checkpoint was made with other data: it is at piece %llu of %llu", t->from,
                        (unsigned long long)t->state.place.piece, (unsigned long long)t->train.n_pieces);
    t->fetched = t->state.place;
    fetch(t);
    return SHK_OK;
}

static shk_status begin(trainer *t, const char *config, const char *const *settings, size_t n_settings, shk_error *err) {
    shk_status st = shk_comm_open(&t->comm, err);
    if (!st) st = shk_comm_agree(&t->comm, read_settings(t, config, settings, n_settings, err), err);
    if (!st) st = find_start(t, err);
    if (st) return st;
    st = open_net(t, err);
    if (!st) st = make_room(t, err);
    if (!st && t->comm.rank == 0) st = shk_record_open(&t->record, t->set.out, t->state.step, err);
    return shk_comm_agree(&t->comm, st, err);
}

/* ---- when something is wrong ---- */

static unsigned long long document_of(const trainer *t, const shk_place *at, size_t row) {
    return shk_data_document(&t->train, at, (uint64_t)t->set.seed, row);
}

/* Where a step went wrong: the first parameter, loss of a row (of a part of the batch) or gradient that is not finite here. SHK_OK:
 * none is. */
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
                          step, i % T, (t->mine + i) / T, document_of(t, at, part * t->all + t->mine + i));
    n->ops->download(n->dev, host, n->g, bytes);
    if (!st && (i = shk_params_not_finite(&n->params, host, &which)) != SIZE_MAX)
        st = shk_fail(err, SHK_E_NUMERIC, "step %llu: the gradient of value %zu of %s is not finite", step, i, which->name);
    free(host);
    return st;
}

/* The document of the worst token in the last part of the batch, over all ranks. What the other parts lost is not kept. */
static shk_status find_worst(trainer *t, const shk_place *at, unsigned long long *document, shk_error *err) {
    struct worst {
        float loss;
        size_t row;
    } mine = { t->net->host_loss[0], 0 }, *all = shk_calloc((size_t)t->comm.size, sizeof *all);
    shk_status st = shk_comm_agree(&t->comm, all ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "no memory"), err);
    for (size_t i = 1; i < t->N; i++)
        if (t->net->host_loss[i] > mine.loss) mine = (struct worst){ t->net->host_loss[i], i };
    mine.row += t->mine;
    if (!st) st = t->comm.gather(&t->comm, all, &mine, sizeof mine, err);
    if (!st) {
        mine = all[0];
        for (int r = 1; r < t->comm.size; r++)
            if (all[r].loss > mine.loss) mine = all[r];
        *document = document_of(t, at, (t->accumulate - 1) * t->all + mine.row);
    }
    free(all);
    return st;
}

/* What all ranks know, and one of them says. */
static shk_status known(trainer *t, const char *message, shk_error *err) {
    return shk_comm_agree(&t->comm, t->comm.rank == 0 ? shk_fail(err, SHK_E_NUMERIC, "%s", message) : SHK_OK, err);
}

/* The average follows the loss with a memory of about 50 steps. */
static shk_status check_jump(trainer *t, double loss, const shk_place *at, shk_error *err) {
    enum { SETTLED = 20 };
    double *average = &t->state.average;
    if (t->state.step == 0) *average = loss;
    if (t->set.spike > 0 && t->state.step >= SETTLED && loss > *average + t->set.spike) {
        char message[256];
        unsigned long long document;
        shk_status st = find_worst(t, at, &document, err);
        if (st) return st;
        snprintf(message, sizeof message, "step %llu: the loss jumped to %.4f from an average of %.4f; the worst token is in "
                                          "document %llu%s; lower rate, or raise spike",
                 (unsigned long long)t->state.step + 1, loss, *average, document,
                 t->accumulate > 1 ? " (of the last part of the batch)" : "");
        return known(t, message, err);
    }
    *average += (loss - *average) * 0.02;
    return SHK_OK;
}

/* ---- a step ---- */

/* Updates this rank's shard. Ranges of the array that are treated alike go together. */
static void update(trainer *t, double rate, double scale) {
    const shk_net *n = t->net;
    const shk_params *p = &n->params;
    const shk_train_state *s = &t->state;
    double step = (double)s->step + 1;
    shk_adamw a = { .rate = (float)rate, .beta1 = (float)t->set.beta1, .beta2 = (float)t->set.beta2, .eps = (float)t->set.eps,
                    .correct1 = (float)(1 - pow(t->set.beta1, step)), .correct2 = (float)(1 - pow(t->set.beta2, step)),
                    .scale = (float)scale };
    for (size_t i = 0, j; i < p->n; i = j) {
        for (j = i + 1; j < p->n && shk_param_decays(&p->items[j]) == shk_param_decays(&p->items[i]);) j++;
        size_t at = p->items[i].at, end = j < p->n ? p->items[j].at : p->size;
        if (at < s->at) at = s->at;
        if (end > s->at + s->n) end = s->at + s->n;
        a.decay = shk_param_decays(&p->items[i]) ? (float)t->set.weight_decay : 0;
        if (at < end) n->t->adamw(n->dev, n->w + at, s->m + (at - s->at), s->v + (at - s->at), n->g + at, end - at, &a);
    }
}

/* Every rank gets the parameters that the others have updated. */
static shk_status exchange(trainer *t, shk_error *err) {
    const shk_net *n = t->net;
    if (t->comm.size == 1) return SHK_OK;
    shk_status st = shk_comm_agree(&t->comm, n->ops->end(n->dev, true, err), err);
    if (!st) st = t->comm.all_gather(&t->comm, n->w, t->state.n, err);
    if (!st) n->t->refresh(n->dev, n->w, n->params.size);
    return st;
}

/* The sum of the losses of this rank's part of the step's rows, and its gradients. While a device computes a batch the next is
 * read. *next: the place behind the step's last. */
static shk_status run_own(trainer *t, shk_place *next, double *sum, shk_error *err) {
    shk_net *n = t->net;
    shk_place at = *next;
    float scale = (float)(1 / (double)(t->accumulate * t->all));
    n->t->zero(n->dev, n->g, n->params.size * sizeof(float));
    for (size_t i = 0; i < t->accumulate; i++) {
        const struct rows *r = &t->rows[t->next];
        double part;
        *next = t->fetched;
        shk_status st = shk_net_start(n, r->tokens + t->mine, r->targets + t->mine, r->first + t->mine, true,
                                      (float)t->set.z_loss, scale, err);
        if (st) return st;
        t->next ^= 1;
        fetch(t);
        st = shk_net_finish(n, &part, err);
        if (!st && !isfinite(part)) st = diagnose(t, &at, i, err);
        if (st) return st;
        *sum += part;
    }
    return n->ops->end(n->dev, true, err);
}

static shk_status one_step(trainer *t, shk_train_progress *p, shk_error *err) {
    shk_net *n = t->net;
    shk_comm *c = &t->comm;
    shk_train_state *s = &t->state;
    shk_place at = s->place, next = at;
    double sum = 0, squares;
    shk_status st = shk_comm_agree(c, run_own(t, &next, &sum, err), err);
    if (!st) st = shk_comm_sum(c, &sum, 1, err);
    if (!st) st = c->reduce_scatter(c, n->g, s->n, err);
    if (st) return st;
    squares = n->t->sum_squares(n->dev, n->g + s->at, s->n);
    st = shk_comm_agree(c, n->ops->end(n->dev, true, err), err); /* a device that failed gives no sums */
    if (!st) st = shk_comm_sum(c, &squares, 1, err);
    if (st) return st;
    p->loss = sum / (double)(t->accumulate * t->all);
    p->norm = sqrt(squares);
    p->rate = shk_settings_rate(&t->set, s->step);
    if (!isfinite(p->norm)) {
        char message[64];
        snprintf(message, sizeof message, "step %llu: the gradient's norm is not finite", (unsigned long long)s->step + 1);
        st = shk_comm_agree(c, diagnose(t, &at, t->accumulate - 1, err), err);
        return st ? st : known(t, message, err);
    }
    st = check_jump(t, p->loss, &at, err);
    if (st) return st;
    update(t, p->rate, t->set.clip > 0 && p->norm > t->set.clip ? t->set.clip / p->norm : 1);
    s->place = next;
    s->step++;
    return exchange(t, err);
}

/* Mean loss over the first batches of the held-out documents. */
static shk_status evaluate(trainer *t, double *loss, shk_error *err) {
    const struct rows *r = &t->rows[2];
    shk_place at = { 0 };
    double sum = 0, part;
    size_t targets = 0;
    shk_status st = SHK_OK;
    for (; !st && targets < (size_t)t->set.eval_batches * t->all && at.epoch == 0; targets += t->all) {
        shk_data_next(&t->held_out, &at, 0, (size_t)t->set.batch, r->tokens, r->targets, r->first);
        st = shk_net_run(t->net, r->tokens + t->mine, r->targets + t->mine, r->first + t->mine, false, 0, 1, &part, err);
        if (!st) sum += part;
    }
    st = shk_comm_agree(&t->comm, st, err);
    if (!st) st = shk_comm_sum(&t->comm, &sum, 1, err);
    *loss = sum / (double)targets;
    return st;
}

/* Of the batch that was last run: the ranks have equal parts of it. */
static shk_status measure_activity(trainer *t, shk_error *err) {
    shk_activity *a = &t->activity;
    shk_activity_measure(a, t->net);
    shk_status st = shk_comm_sum(&t->comm, a->neurons, 2 * a->layers, err);
    for (size_t i = 0; i < 2 * a->layers; i++) a->neurons[i] /= t->comm.size;
    shk_activity_add_up(a, t->net->c);
    return st;
}

static bool every(double interval, uint64_t step) { return interval > 0 && step % (uint64_t)interval == 0; }

static shk_status save(trainer *t, char **saved, shk_error *err) {
    shk_status st = shk_checkpoint_write(t->net, &t->state, &t->set, t->tokenizer, &t->comm, saved, err);
    char *newest = !st && !t->set.tokenizer ? shk_strdup(*saved) : NULL;
    if (newest) free(t->from), t->tokenizer = t->from = newest; /* the one that it came from may be removed by the next */
    return st;
}

/* Evaluates, logs and saves what is due after a step. */
static shk_status after_step(trainer *t, shk_train_progress *p, bool last, char **saved, shk_error *err) {
    uint64_t step = t->state.step, done = step - t->first_step;
    bool logged = every(t->set.log_every, step) || last, evaluated = every(t->set.eval_every, step) || (last && t->held_out.n);
    double tokens = (double)(t->all * t->accumulate);
    shk_status st = SHK_OK;
    p->step = step, p->held_out = NAN;
    p->tokens_per_s = tokens * (double)done / t->seconds;
    p->remaining_s = t->seconds / (double)done * (t->set.steps - (double)step);
    if (logged || evaluated) st = measure_activity(t, err);
    if (!st && evaluated) st = evaluate(t, &p->held_out, err);
    if (!st && (logged || evaluated) && t->comm.rank == 0) {
        st = shk_record_add(&t->record, p, step * t->all * t->accumulate, &t->activity, err);
        if (!st) st = shk_record_draw(&t->record, p, last ? 0 : 2, err);
    }
    st = shk_comm_agree(&t->comm, st, err);
    if (!st && (every(t->set.save_every, step) || last)) st = save(t, saved, err);
    p->saved = *saved;
    return st;
}

static shk_status loop(trainer *t, int (*on_step)(void *user, const shk_train_progress *p), void *user, shk_error *err) {
    shk_train_progress p = { .steps = (uint64_t)t->set.steps, .rank = t->comm.rank, .ranks = t->comm.size };
    double stop = 0;
    while (t->state.step < p.steps && stop == 0) {
        char *saved = NULL;
        double began = shk_seconds();
        shk_status st = one_step(t, &p, err);
        t->seconds += shk_seconds() - began;
        if (!st) st = after_step(t, &p, t->state.step == p.steps, &saved, err);
        if (!st && on_step) {
            stop = on_step(user, &p) != 0;
            st = shk_comm_sum(&t->comm, &stop, 1, err);
        }
        if (!st && stop != 0 && !saved) {
            st = save(t, &saved, err);
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
    shk_activity_free(&t.activity);
    if (t.moments) t.net->ops->release(t.net->dev, t.moments, t.moment_bytes);
    shk_net_free(t.net);
    shk_data_close(&t.train);
    shk_data_close(&t.held_out);
    shk_settings_free(&t.set);
    if (t.lock >= 0) close(t.lock);
    for (size_t i = 0; i < 3; i++) free(t.rows[i].tokens);
    free(t.from);
    t.comm.close(&t.comm);
    return st;
}
