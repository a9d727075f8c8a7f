/* shk_shards_write: text files to token shards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <errno.h>
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
    uint64_t number;
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
    uint64_t documents; /* so far */
    shk_pool *pool;
    shk_error *err;
} job;

static shk_status fill(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    (void)err;
    const stream *s = user;
    shk_writer_put(w, strcmp(t->name, "tokens") == 0 ? s->tokens.data : s->documents.data, t->n_bytes);
    return SHK_OK;
}

static shk_status flush(const job *j, stream *s) {
    char path[4096];
    if (!s->documents.n) return SHK_OK;
    snprintf(path, sizeof path, "%s/%s-%05zu.safetensors", j->dir, s->name, s->shard++);
    shk_tensor items[2] = {
        { .name = "tokens", .type = j->token_bytes == 2 ? SHK_I16 : SHK_I32, .n_dims = 1,
          .shape = { s->tokens.n / j->token_bytes } },
        { .name = "documents", .type = SHK_I64, .n_dims = 1, .shape = { s->documents.n / sizeof(int64_t) } },
    };
    shk_status st = shk_safetensors_write(path, items, 2, fill, s, j->err);
    s->tokens.n = s->documents.n = 0;
    return st;
}

static bool put_token(const job *j, stream *s, int32_t id) {
    uint16_t narrow = (uint16_t)id;
    return id < 0 || (j->token_bytes == 2 ? shk_buffer_append(&s->tokens, &narrow, 2) : shk_buffer_append(&s->tokens, &id, 4));
}

static shk_status put_document(job *j, const text *d) {
    bool held_out = j->o.held_out && (d->number * 0x9e3779b97f4a7c15u >> 32) % j->o.held_out == 0;
    stream *s = held_out ? &j->held_out : &j->train;
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
        if (!st) st = d->st ? shk_fail(j->err, d->st, "document %llu: %s", (unsigned long long)d->number, d->err.message)
                            : put_document(j, d);
        free(d->ids);
    }
    j->n_group = 0;
    return st;
}

static shk_status add_document(job *j, const char *data, size_t n) {
    while (n && (data[n - 1] == '\n' || data[n - 1] == '\r')) n--;
    if (!n) return SHK_OK;
    j->group[j->n_group++] = (text){ .data = data, .n = n, .number = j->documents++ };
    return j->n_group == GROUP ? end_group(j) : SHK_OK;
}

/* The documents of a file: lines that are the separator end one. */
static shk_status add_file(job *j, const shk_map *map, uint64_t done, uint64_t of, int (*on_progress)(void *, uint64_t, uint64_t),
                           void *user) {
    const char *at = (const char *)map->data, *end = at + map->size, *begin = at;
    size_t length = sizeof separator - 1;
    shk_status st = SHK_OK;
    while (!st && at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at)), *next = newline ? newline + 1 : end;
        size_t n = (size_t)((newline ? newline : end) - at);
        if (n && at[n - 1] == '\r') n--;
        if (n == length && memcmp(at, separator, n) == 0) {
            st = add_document(j, begin, (size_t)(at - begin));
            begin = next;
            if (!st && !j->n_group && on_progress && on_progress(user, done + (uint64_t)(at - (const char *)map->data), of))
                st = shk_fail(j->err, SHK_E_ARGUMENT, "stopped");
        }
        at = next;
    }
    if (!st) st = add_document(j, begin, (size_t)(end - begin));
    return st ? st : end_group(j); /* before the file is unmapped */
}

static shk_status begin(job *j, shk_error *err) {
    char path[4096];
    j->token_bytes = shk_tokenizer_vocab_size(j->t) <= 1 << 16 ? 2 : 4;
    if (!j->o.shard_tokens) j->o.shard_tokens = 1 << 26;
    if (mkdir(j->dir, 0777) != 0 && errno != EEXIST) return shk_fail_errno(err, "%s", j->dir);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s-00000.safetensors", j->dir, i ? j->held_out.name : j->train.name);
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
        st = add_file(j, &map, done, of, on_progress, user);
        done += map.size;
        shk_map_close(&map);
    }
    if (!st) st = flush(j, &j->train);
    if (!st) st = flush(j, &j->held_out);
    if (!st && !counts->documents) st = shk_fail(err, SHK_E_ARGUMENT, "%s: the files hold no document to train on", dir);
    shk_buffer_free(&j->train.tokens), shk_buffer_free(&j->train.documents);
    shk_buffer_free(&j->held_out.tokens), shk_buffer_free(&j->held_out.documents);
    shk_pool_free(j->pool);
    free(j);
    return st;
}
