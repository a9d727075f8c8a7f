/* Token shards and the batches that are packed from them; the schedules of the learning rate. */
#include <math.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/safetensors.h"
#include "file/writer.h"
#include "train/data.h"
#include "train/settings.h"
#include "../test.h"

enum { DOCUMENTS = 60, T = 16, B = 3 };

static char dir[64], path[128];
static shk_error err;

/* Token j of document d is 100 d + j, so a token says where it is from. */
typedef struct content {
    int32_t tokens[DOCUMENTS * 64];
    int64_t begin[DOCUMENTS];
    size_t n, documents;
} content;

static size_t length_of(size_t d) { return 1 + d * 7 % 53; }

static shk_status fill(void *user, const shk_tensor *t, shk_writer *w, shk_error *e) {
    (void)e;
    const content *c = user;
    shk_writer_put(w, strcmp(t->name, "tokens") == 0 ? (const void *)c->tokens : (const void *)c->begin, t->n_bytes);
    return SHK_OK;
}

static void write_shard(const char *name, content *c) {
    shk_tensor items[] = { { .name = "tokens", .type = SHK_I32, .n_dims = 1, .shape = { c->n } },
                           { .name = "documents", .type = SHK_I64, .n_dims = 1, .shape = { c->documents } } };
    snprintf(path, sizeof path, "%s/%s.safetensors", dir, name);
    NEED(shk_safetensors_write(path, items, 2, fill, c, &err) == SHK_OK, "%s", err.message);
}

static void write_shards(void) {
    static content c;
    for (size_t d = 0; d < DOCUMENTS; d++) {
        c.begin[c.documents++] = (int64_t)c.n;
        for (size_t j = 0; j < length_of(d); j++) c.tokens[c.n++] = (int32_t)(100 * d + j);
        if (d == 20 || d == DOCUMENTS - 1) {
            write_shard(d == 20 ? "train-00000" : "train-00001", &c);
            c = (content){ .n = 0 };
        }
    }
}

/* A row's token, target and beginning agree with each other and with the row before. */
static size_t wrong_rows(const int32_t *tokens, const int32_t *targets, const int32_t *first) {
    size_t wrong = 0;
    for (size_t i = 0; i < B * T; i++) {
        int32_t t = (int32_t)(i % T);
        bool begins = first[i] == t, follows = t > 0 && first[i] == first[i - 1];
        wrong += targets[i] != tokens[i] + 1 || targets[i] / 100 != tokens[i] / 100;
        wrong += !begins && !(follows && tokens[i] == tokens[i - 1] + 1);
    }
    return wrong;
}

/* An epoch has every token that has a successor, once. */
static void test_epoch(const shk_data *d, uint64_t seed) {
    static uint8_t seen[100 * DOCUMENTS];
    int32_t tokens[B * T], targets[B * T], first[B * T];
    shk_place at = { 0 };
    size_t total = 0, wrong = 0, twice = 0;
    memset(seen, 0, sizeof seen);
    for (size_t k = 0; k < DOCUMENTS; k++) total += length_of(k) - 1;
    for (size_t done = 0; done < total;) {
        shk_place before = at;
        shk_data_next(d, &at, seed, B, tokens, targets, first);
        wrong += wrong_rows(tokens, targets, first);
        for (size_t i = 0; i < B * T && done < total; i++, done++) {
            twice += seen[tokens[i]]++;
            wrong += shk_data_document(d, &before, seed, i) != (uint64_t)tokens[i] / 100;
        }
    }
    CHECK(!wrong && !twice && at.epoch == 1, "seed %d: %zu rows are wrong, %zu came twice", (int)seed, wrong, twice);
}

static void test_orders(const shk_data *d) {
    int32_t tokens[4][B * T], targets[B * T], first[B * T];
    uint64_t seeds[] = { 1, 1, 2, 1 };
    for (int i = 0; i < 4; i++) {
        shk_place at = { .epoch = i == 3 };
        shk_data_next(d, &at, seeds[i], B, tokens[i], targets, first);
    }
    CHECK(memcmp(tokens[0], tokens[1], sizeof *tokens) == 0, "a seed repeats");
    CHECK(memcmp(tokens[0], tokens[2], sizeof *tokens) != 0, "another seed is another order");
    CHECK(memcmp(tokens[0], tokens[3], sizeof *tokens) != 0, "the next epoch is another order");
    shk_place at = { 0 };
    shk_data_next(d, &at, 0, B, tokens[0], targets, first);
    CHECK(tokens[0][0] == 100 && tokens[0][1] == 101, "without a seed the first document comes first: it is %d", tokens[0][0]);
    shk_place far = { .offset = 1000000 };
    shk_data_next(d, &far, 1, B, tokens[0], targets, first);
    CHECK(wrong_rows(tokens[0], targets, first) == 0, "an offset past a piece's end is its end");
}

static void refused(const char *what, content *c) {
    shk_data d;
    write_shard("bad-00000", c);
    CHECK(shk_data_open(&d, dir, "bad", T, &err) == SHK_E_FORMAT && strstr(err.message, "bad-00000"), "%s: %s", what, err.message);
}

static void test_refused(void) {
    shk_data d;
    refused("documents that do not begin at 0", &(content){ .begin = { 1 }, .n = 5, .documents = 1 });
    refused("documents out of order", &(content){ .begin = { 0, 3, 2 }, .n = 5, .documents = 3 });
    refused("a document past the end", &(content){ .begin = { 0, 9 }, .n = 5, .documents = 2 });
    refused("a negative place", &(content){ .begin = { 0, -1 }, .n = 5, .documents = 2 });
    write_shard("bad-00000", &(content){ .begin = { 0, 1 }, .n = 2, .documents = 2 });
    CHECK(shk_data_open(&d, dir, "bad", T, &err) == SHK_E_FORMAT && strstr(err.message, "two tokens"), "%s", err.message);
    CHECK(shk_data_open(&d, dir, "none", T, &err) == SHK_E_IO && strstr(err.message, "none-00000"), "%s", err.message);
}

static void test_rates(void) {
    shk_settings s = { .schedule = "cosine", .steps = 1000, .warmup = 10, .rate = 2, .final_rate = 0.1 };
    CHECK(fabs(shk_settings_rate(&s, 0) - 0.2) < 1e-4, "the first step of ten");
    CHECK(fabs(shk_settings_rate(&s, 500) - 2 * 0.55) < 1e-12, "half of the way");
    CHECK(fabs(shk_settings_rate(&s, 1000) - 0.2) < 1e-12, "the end");
    s.schedule = "constant", s.decay_steps = 100;
    CHECK(shk_settings_rate(&s, 10) == 2 && shk_settings_rate(&s, 900) == 2, "constant");
    CHECK(fabs(shk_settings_rate(&s, 950) - 2 * 0.55) < 1e-12, "half of the decay");
    s.decay_steps = s.warmup = 0;
    CHECK(shk_settings_rate(&s, 0) == 2 && shk_settings_rate(&s, 999) == 2, "no decay");
}

int main(void) {
    snprintf(dir, sizeof dir, "/tmp/shk_train_data_%d", (int)getpid());
    NEED(mkdir(dir, 0700) == 0, "%s", dir);
    write_shards();
    shk_data d;
    NEED(shk_data_open(&d, dir, "train", T, &err) == SHK_OK, "%s", err.message);
    CHECK(d.n == 2 && d.n_documents == DOCUMENTS, "%zu shards, %d documents", d.n, (int)d.n_documents);
    for (uint64_t seed = 0; seed < 20; seed++) test_epoch(&d, seed);
    test_orders(&d);
    shk_data_close(&d);
    test_refused();
    test_rates();
    static const char *const names[] = { "train-00000", "train-00001", "bad-00000" };
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s.safetensors", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
    return test_done();
}
