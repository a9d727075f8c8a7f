/* shk_shards_write: text files to token shards. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/detect.h"
#include "cpu/pool.h"
#include "error.h"
#include "file/safetensors.h"
#include "file/writer.h"
#include "mem.h"
#include "sparkhawk_train.h"

enum { GROUP = 256 }; /* documents that are tokenized at once */
static const char separator[] = "<|endoftext|>";

/* The shard that is being filled, of one of the two kinds. */
typedef struct stream {
    const char *name;
    size_t shard;
    shk_buffer tokens, documents;
    uint64_t *total_documents, *total_tokens;
} stream;

typedef struct text {
    const char *data;
    size_t n;
    bool held_out;
    int32_t *ids;
    size_t n_ids;
    shk_status st;
    shk_error err;
} text;

typedef struct job {
    const shk_tokenizer *t;
    const char *dir;
    shk_shards_options o;
    size_t token_bytes;
    stream train, held_out;
    text group[GROUP];
    size_t n_group;
    const char *file;
    shk_pool *pool;
    shk_error *err;
} job;

static shk_status fill(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    (void)err;
    const stream *s = user;
    shk_writer_put(w, strcmp(t->name, "tokens") == 0 ? s->tokens.data : s->documents.data, t->n_bytes);
    return SHK_OK;
}

static void name_shard(const job *j, const stream *s, size_t i, char *path, size_t size) {
    snprintf(path, size, "%s/%s-%05zu.safetensors", j->dir, s->name, i);
}

static void remove_shards(const job *j, const stream *s) {
    char path[4096];
    for (size_t i = 0; i < s->shard; i++) {
        name_shard(j, s, i, path, sizeof path);
        unlink(path);
    }
}

static shk_status flush(const job *j, stream *s) {
    char path[4096];
    if (!s->documents.n) return SHK_OK;
    name_shard(j, s, s->shard, path, sizeof path);
    shk_tensor items[2] = {
        { .name = "tokens", .type = j->token_bytes == 2 ? SHK_I16 : SHK_I32, .n_dims = 1,
          .shape = { s->tokens.n / j->token_bytes } },
        { .name = "documents", .type = SHK_I64, .n_dims = 1, .shape = { s->documents.n / sizeof(int64_t) } },
    };
    shk_status st = shk_safetensors_write(path, items, 2, fill, s, j->err);
    s->shard += !st;
    s->tokens.n = s->documents.n = 0;
    return st;
}

static bool put_token(const job *j, stream *s, int32_t id) {
    uint16_t narrow = (uint16_t)id;
    return id < 0 || (j->token_bytes == 2 ? shk_buffer_append(&s->tokens, &narrow, 2) : shk_buffer_append(&s->tokens, &id, 4));
}

static shk_status put_document(job *j, const text *d) {
    stream *s = d->held_out ? &j->held_out : &j->train;
    int64_t begin = (int64_t)(s->tokens.n / j->token_bytes);
    bool ok = shk_buffer_append(&s->documents, &begin, sizeof begin);
    for (size_t i = 0; ok && i < d->n_ids; i++) ok = put_token(j, s, d->ids[i]);
    ok = ok && put_token(j, s, shk_tokenizer_eos(j->t));
    if (!ok) return shk_fail(j->err, SHK_E_MEMORY, "no memory for a shard of %zu bytes", s->tokens.n);
    ++*s->total_documents;
    *s->total_tokens += s->tokens.n / j->token_bytes - (uint64_t)begin;
    return s->tokens.n / j->token_bytes >= j->o.shard_tokens ? flush(j, s) : SHK_OK;
}

static void tokenize_range(void *ctx, int thread, size_t begin, size_t end) {
    (void)thread;
    job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        text *d = &j->group[i];
        d->st = shk_tokenize(j->t, d->data, d->n, SHK_TOKENIZE_BOS, &d->ids, &d->n_ids, &d->err);
    }
}

static shk_status end_group(job *j) {
    shk_status st = SHK_OK;
    shk_pool_run(j->pool, tokenize_range, j, j->n_group, 1);
    for (size_t i = 0; i < j->n_group; i++) {
        text *d = &j->group[i];
        if (!st) st = d->st ? shk_fail(j->err, d->st, "%s: %s", j->file, d->err.message)
                            : put_document(j, d);
        free(d->ids);
    }
    j->n_group = 0;
    return st;
}

/* The next document of a file: up to a line that is the separator, without the newlines at its end; one of no bytes is none. *at
 * moves on. */
static bool next_document(const char **at, const char *end, text *d) {
    size_t length = sizeof separator - 1;
    for (const char *begin = *at, *line = begin; begin < end; line = begin) {
        const char *stop = end, *next = end;
        while (line < end) {
            const char *newline = memchr(line, '\n', (size_t)(end - line));
            size_t n = (size_t)((newline ? newline : end) - line);
            next = newline ? newline + 1 : end;
            if (n && line[n - 1] == '\r') n--;
            if (n == length && memcmp(line, separator, n) == 0) {
                stop = line;
                break;
            }
            line = next;
        }
        *at = next;
        while (stop > begin && (stop[-1] == '\n' || stop[-1] == '\r')) stop--;
        if (stop > begin) {
            *d = (text){ .data = begin, .n = (size_t)(stop - begin) };
            return true;
        }
        begin = next;
    }
    return false;
}

static shk_status add_file(job *j, const shk_map *map, uint64_t done, uint64_t of, int (*on_progress)(void *, uint64_t, uint64_t),
                           void *user) {
    const char *begin = (const char *)map->data, *at = begin, *end = at + map->size;
    uint64_t count = 0, every = j->o.held_out;
    text d;
    while (next_document(&at, end, &d)) count++;
    at = begin;
    for (uint64_t i = 0; i < count; i++) {
        next_document(&at, end, &d);
        d.held_out = every && (i % every == every - 1 || (count < every && i == count - 1));
        j->group[j->n_group++] = d;
        if (j->n_group < GROUP && i + 1 < count) continue; /* the last ones before the file is unmapped */
        shk_status st = end_group(j);
        if (st) return st;
        if (on_progress && on_progress(user, done + (uint64_t)(at - begin), of)) return shk_fail(j->err, SHK_E_ARGUMENT, "stopped");
    }
    return SHK_OK;
}

static shk_status begin(job *j, shk_error *err) {
    char path[4096];
    j->token_bytes = shk_tokenizer_vocab_size(j->t) <= 1 << 16 ? 2 : 4;
    if (!j->o.shard_tokens) j->o.shard_tokens = 1 << 26;
    if (mkdir(j->dir, 0777) != 0 && errno != EEXIST) return shk_fail_errno(err, "%s", j->dir);
    for (int i = 0; i < 2; i++) {
        name_shard(j, i ? &j->held_out : &j->train, 0, path, sizeof path);
        if (access(path, F_OK) == 0) return shk_fail(err, SHK_E_ARGUMENT, "%s: there are shards already", path);
    }
    return shk_pool_new(&j->pool, j->o.threads > 0 ? j->o.threads : shk_cpu_count(), err);
}

shk_status shk_shards_write(const shk_tokenizer *t, const char *const *files, size_t n, const char *dir,
                            const shk_shards_options *options, shk_shards_counts *counts,
                            int (*on_progress)(void *user, uint64_t bytes, uint64_t of), void *user, shk_error *err) {
    uint64_t done = 0, of = 0;
    memset(counts, 0, sizeof *counts);
    job *j = shk_calloc(1, sizeof *j);
    if (!j) return shk_fail(err, SHK_E_MEMORY, "no memory");
    *j = (job){ .t = t, .dir = dir, .err = err,
                .train = { .name = "train", .total_documents = &counts->documents, .total_tokens = &counts->tokens },
                .held_out = { .name = "held-out", .total_documents = &counts->held_out_documents,
                              .total_tokens = &counts->held_out_tokens } };
    if (options) j->o = *options;
    shk_status st = begin(j, err);
    for (size_t i = 0; !st && i < n; i++) {
        struct stat s;
        if (stat(files[i], &s) != 0) st = shk_fail_errno(err, "%s", files[i]);
        else of += (uint64_t)s.st_size;
    }
    for (size_t i = 0; !st && i < n; i++) {
        shk_map map;
        if ((st = shk_map_open(&map, files[i], err))) break;
        j->file = files[i];
        st = add_file(j, &map, done, of, on_progress, user);
        done += map.size;
        shk_map_close(&map);
    }
    if (!st && !counts->documents)
        st = shk_fail(err, SHK_E_ARGUMENT, "%s: the files hold no document to train on, or none that is not held out", dir);
    if (!st) st = flush(j, &j->train);
    if (!st) st = flush(j, &j->held_out);
    if (st) remove_shards(j, &j->train), remove_shards(j, &j->held_out);
    shk_buffer_free(&j->train.tokens), shk_buffer_free(&j->train.documents);
    shk_buffer_free(&j->held_out.tokens), shk_buffer_free(&j->held_out.documents);
    shk_pool_free(j->pool);
    free(j);
    return st;
}
