#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "file/writer.h"
#include "text/tokenizer.h"

static const char prefix[] = "step-", unfinished[] = "unfinished";

/* "DIR/NAME", malloc'd; NULL: no memory */
static char *joined(const char *dir, const char *name) {
    shk_buffer b = { 0 };
    shk_buffer_printf(&b, "%s/%s", dir, name);
    return b.data;
}

/* The step of a checkpoint's name; false: it is none. */
static bool step_of(const char *name, uint64_t *step) {
    char *end;
    size_t n = sizeof prefix - 1;
    if (strncmp(name, prefix, n) != 0 || name[n] < '0' || name[n] > '9') return false;
    *step = strtoull(name + n, &end, 10);
    return !*end;
}

static int remove_entry(const char *path, const struct stat *s, int type, struct FTW *walk) {
    (void)s, (void)type, (void)walk;
    return remove(path);
}

/* With all that is in it, whoever put it there; links are not followed. */
static void remove_directory(const char *path) { nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS); }

/* Steps that have a checkpoint, ascending; malloc'd. */
static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static shk_status list(const char *out, uint64_t **steps, size_t *n, shk_error *err) {
    *steps = NULL, *n = 0;
    DIR *d = opendir(out);
    if (!d) return errno == ENOENT ? SHK_OK : shk_fail_errno(err, "%s", out);
    shk_status st = SHK_OK;
    uint64_t step;
    for (struct dirent *e; !st && (e = readdir(d));) {
        if (!step_of(e->d_name, &step)) continue;
        uint64_t *grown = shk_realloc(*steps, *n + 1, sizeof **steps);
        if (!grown) st = shk_fail(err, SHK_E_MEMORY, "%s: no memory", out);
        else *steps = grown, grown[(*n)++] = step;
    }
    closedir(d);
    if (*n) qsort(*steps, *n, sizeof **steps, ascending);
    return st;
}

static char *path_of(const char *out, uint64_t step) {
    char name[32];
    snprintf(name, sizeof name, "%s%08llu", prefix, (unsigned long long)step);
    return joined(out, name);
}

shk_status shk_checkpoint_find(const char *out, char **path, shk_error *err) {
    uint64_t *steps;
    size_t n;
    *path = NULL;
    shk_status st = list(out, &steps, &n, err);
    if (!st && n && !(*path = path_of(out, steps[n - 1]))) st = shk_fail(err, SHK_E_MEMORY, "%s: no memory", out);
    free(steps);
    return st;
}

/* ---- writing ---- */

static shk_status put_json(const char *dir, const char *name, json_t *j, shk_error *err) {
    char *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL, *path = joined(dir, name);
    shk_status st =
        text && path ? shk_write_file(path, text, strlen(text), err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", dir);
    json_decref(j);
    free(text);
    free(path);
    return st;
}

static shk_status copy_file(const char *from, const char *dir, const char *name, shk_error *err) {
    shk_map map;
    char *to = joined(dir, name);
    shk_status st = to ? shk_map_open(&map, from, err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", dir);
    if (!st) {
        st = shk_write_file(to, map.data, map.size, err);
        shk_map_close(&map);
    }
    free(to);
    return st;
}

/* A file as it is, where it is one that a model directory may hold; else it is written from what was read. */
static shk_status put_tokenizer(const char *dir, const char *from, shk_error *err) {
    static const char *const names[] = { "tokenizer.json", "tokenizer.model" };
    size_t length = strlen(from);
    struct stat s;
    if (stat(from, &s) != 0) return shk_fail_errno(err, "%s", from);
    for (size_t i = 0; i < 2; i++) {
        const char *suffix = strchr(names[i], '.');
        size_t n = strlen(suffix);
        if (S_ISREG(s.st_mode) && length > n && strcmp(from + length - n, suffix) == 0)
            return copy_file(from, dir, names[i], err);
        char *in = joined(from, names[i]);
        bool there = in && access(in, R_OK) == 0;
        shk_status st = there ? copy_file(in, dir, names[i], err) : SHK_OK;
        free(in);
        if (there) return st;
    }
    shk_tokenizer *t = NULL;
    if (shk_tokenizer_load(&t, from, NULL)) return SHK_OK; /* a model without one */
    char *to = joined(dir, names[1]);
    shk_status st = to ? shk_tokenizer_write_model(t, to, err) : shk_fail(err, SHK_E_MEMORY, "%s: no memory", dir);
    free(to);
    shk_tokenizer_free(t);
    return st;
}

/* All ranks' shards of m or v in host memory (`to` NULL: not wanted on this rank), by way of the gradients' array. */
static shk_status collect(const shk_net *n, const shk_train_state *s, shk_comm *comm, float *to, const float *shard,
                          shk_error *err) {
    n->ops->upload(n->dev, n->g + s->at, shard, s->n * sizeof *shard);
    shk_status st = shk_comm_agree(comm, n->ops->end(n->dev, true, err), err);
    if (!st) st = comm->all_gather(comm, n->g, s->n, err);
    if (!st && to) n->ops->download(n->dev, to, n->g, n->params.size * sizeof *to);
    return st;
}

static shk_status put_tensors(const shk_net *n, const char *dir, const float *w, const float *m, const float *v, shk_error *err) {
    char *model = joined(dir, "model.safetensors"), *state = joined(dir, "state.safetensors");
    shk_status st = model && state ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", dir);
    if (!st) {
        shk_param_source weights = { "", w, true, false };
        /* norms are kept with the 1 added: taking it off for the model's file may round */
        shk_param_source rest[] = { { "m.", m, false, false }, { "v.", v, false, false }, { "exact.", w, false, true } };
        st = shk_params_write(&n->params, model, &weights, 1, err);
        if (!st) st = shk_params_write(&n->params, state, rest, 3, err);
    }
    free(model), free(state);
    return st;
}

static json_t *state_json(const shk_train_state *s, const shk_settings *set) {
    json_t *settings = shk_settings_json(set);
    return settings ? json_pack("{s:I, s:I, s:I, s:I, s:f, s:o}", "step", (json_int_t)s->step, "epoch", (json_int_t)s->place.epoch,
                                "piece", (json_int_t)s->place.piece, "offset", (json_int_t)s->place.offset, "average_loss",
                                s->average, "settings", settings)
                    : NULL;
}

static shk_status sync_directory(const char *path, shk_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    shk_status st = fd >= 0 && fsync(fd) == 0 ? SHK_OK : shk_fail_errno(err, "%s", path);
    if (fd >= 0) close(fd);
    return st;
}

static shk_status prune(const char *out, size_t keep, shk_error *err) {
    uint64_t *steps;
    size_t n;
    shk_status st = list(out, &steps, &n, err);
    for (size_t i = 0; !st && i + keep < n; i++) {
        char *old = path_of(out, steps[i]), *aside = joined(out, unfinished);
        if (old && aside && rename(old, aside) == 0) remove_directory(aside); /* half a checkpoint never has a checkpoint's name */
        free(old), free(aside);
    }
    free(steps);
    return st;
}

static shk_status write_all(const shk_net *n, const shk_train_state *s, const shk_settings *set, const char *tokenizer,
                            const char *path, const float *w, const float *m, const float *v, shk_error *err) {
    char *dir = joined(set->out, unfinished);
    shk_status st = dir ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", set->out);
    if (!st) {
        remove_directory(dir);
        if (mkdir(dir, 0777) != 0) st = shk_fail_errno(err, "%s", dir);
    }
    if (!st) st = put_tensors(n, dir, w, m, v, err);
    if (!st && tokenizer) st = put_tokenizer(dir, tokenizer, err);
    if (!st) st = put_json(dir, "config.json", shk_config_to_json(n->c, "float32"), err);
    if (!st) st = put_json(dir, "train.json", state_json(s, set), err);
    if (!st) st = sync_directory(dir, err);
    if (!st) remove_directory(path); /* of a run that this one repeats */
    if (!st && rename(dir, path) != 0) st = shk_fail_errno(err, "%s", path);
    if (!st) st = sync_directory(set->out, err);
    if (!st) st = prune(set->out, (size_t)set->keep, err);
    free(dir);
    return st;
}

shk_status shk_checkpoint_write(const shk_net *n, const shk_train_state *s, const shk_settings *set, const char *tokenizer,
                                shk_comm *comm, char **path, shk_error *err) {
    size_t size = comm->rank == 0 ? n->params.size : 0;
    float *w = shk_calloc(size, sizeof *w), *m = shk_calloc(size, sizeof *m), *v = shk_calloc(size, sizeof *v);
    *path = path_of(set->out, s->step);
    shk_status st = w && m && v && *path ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", set->out);
    st = shk_comm_agree(comm, st, err);
    if (!st) st = collect(n, s, comm, size ? m : NULL, s->m, err);
    if (!st) st = collect(n, s, comm, size ? v : NULL, s->v, err);
    if (!st && size) {
        n->ops->download(n->dev, w, n->w, size * sizeof *w);
        st = n->ops->end(n->dev, true, err);
    }
    if (!st && size) st = write_all(n, s, set, tokenizer, *path, w, m, v, err);
    st = shk_comm_agree(comm, st, err);
    if (st) free(*path), *path = NULL;
    free(w), free(m), free(v);
    return st;
}

/* ---- reading ---- */

static shk_status read_json(shk_train_state *s, const char *path, shk_error *err) {
    json_error_t e;
    json_int_t step, epoch, piece, offset;
    json_t *j = json_load_file(path, 0, &e);
    if (!j) return shk_fail(err, SHK_E_FORMAT, "%s: line %d: %s", path, e.line, e.text);
    int bad = json_unpack_ex(j, &e, 0, "{s:I, s:I, s:I, s:I, s:F}", "step", &step, "epoch", &epoch, "piece", &piece, "offset",
                             &offset, "average_loss", &s->average);
    json_decref(j);
    if (bad || step < 0 || epoch < 0 || piece < 0 || offset < 0)
        return shk_fail(err, SHK_E_FORMAT, "%s: %s", path, bad ? e.text : "a negative number");
    s->step = (uint64_t)step;
    s->place = (shk_place){ (uint64_t)epoch, (uint64_t)piece, (uint64_t)offset };
    return SHK_OK;
}

shk_status shk_checkpoint_read(shk_net *n, shk_train_state *s, const char *path, shk_error *err) {
    size_t size = n->params.size;
    float *w = shk_calloc(size, sizeof *w), *m = shk_calloc(size, sizeof *m), *v = shk_calloc(size, sizeof *v);
    char *state = joined(path, "state.safetensors"), *json = joined(path, "train.json");
    shk_status st = w && m && v && state && json ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no memory", path);
    if (!st) st = read_json(s, json, err);
    if (!st) {
        n->ops->download(n->dev, w, n->w, size * sizeof *w);
        shk_param_source rest[] = { { "m.", m, false, false }, { "v.", v, false, false }, { "exact.", w, false, true } };
        st = shk_params_restore(&n->params, state, rest, 3, err);
    }
    if (!st) {
        n->ops->upload(n->dev, n->w, w, size * sizeof *w);
        n->t->refresh(n->dev, n->w, size);
        n->ops->upload(n->dev, s->m, m + s->at, s->n * sizeof *m);
        n->ops->upload(n->dev, s->v, v + s->at, s->n * sizeof *v);
    }
    free(w), free(m), free(v), free(state), free(json);
    return st;
}
