/* Opens and writes files while the first, the second, ... allocation fails: each time there is an error, no crash and no leak.
 * The C library's own functions are replaced, so that those that jansson makes fail too. */
#include "scratch.h"

#include <errno.h>

#include "file/gguf.h"
#include "file/safetensors.h"
#include "file/writer.h"
#include "json_pieces.h"
#include "sparkhawk_train.h"

#if defined(__SANITIZE_ADDRESS__)
#define REPLACEABLE 0
#elif defined(__has_feature)
#define REPLACEABLE !__has_feature(address_sanitizer)
#else
#define REPLACEABLE 1
#endif

#if REPLACEABLE

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void __libc_free(void *p);

static long until_failure = -1; /* allocations that still succeed; negative: all do */
static long live;

static bool fails(void) {
    if (until_failure == 0) errno = ENOMEM;
    return until_failure == 0 || (until_failure > 0 && until_failure-- == 0);
}

static void *counted(void *p) {
    live += p != NULL;
    return p;
}

/* visible to the shared libraries */
#pragma GCC visibility push(default)

void *malloc(size_t n) { return fails() ? NULL : counted(__libc_malloc(n)); }
void *calloc(size_t n, size_t size) { return fails() ? NULL : counted(__libc_calloc(n, size)); }

void *realloc(void *p, size_t n) {
    if (fails()) return NULL;
    void *q = __libc_realloc(p, n);
    live += p == NULL && q != NULL;
    return q;
}

void free(void *p) {
    live -= p != NULL;
    __libc_free(p);
}

#pragma GCC visibility pop

static const char *const fixture = "tests/golden/quants.gguf";

static shk_status open_gguf(shk_error *err) {
    shk_gguf g;
    shk_status status = shk_gguf_open(&g, fixture, err);
    shk_gguf_free(&g);
    return status;
}

static shk_status open_safetensors(shk_error *err) {
    shk_tensors t;
    shk_status status = shk_safetensors_open_dir(&t, scratch_dir, err);
    shk_tensors_free(&t);
    return status;
}

static shk_status fill(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    (void)user, (void)err;
    for (size_t i = 0; i < t->n_bytes; i++) shk_writer_put(w, "", 1);
    return SHK_OK;
}

static const shk_tensor items[] = { { .name = "a", .n_dims = 2, .shape = { 2, 3 } }, { .name = "b" } };

static shk_status write_safetensors(shk_error *err) { return shk_safetensors_write(scratch("written"), items, 2, fill, NULL, err); }

static shk_status write_gguf(shk_error *err) {
    shk_gguf_meta *meta = shk_gguf_meta_new();
    if (!meta) return SHK_E_MEMORY;
    shk_gguf_put_u32(meta, "u", 1);
    shk_gguf_put_strs(meta, "ss", (shk_str[]){ { "a", 1 }, { "b", 1 } }, 2);
    shk_gguf_put_str(meta, "u", "another value");
    shk_status status = shk_gguf_write(scratch("written"), meta, items, 2, fill, NULL, err);
    shk_gguf_meta_free(meta);
    return status;
}

static shk_status write_gradients(shk_error *err) {
    shk_model_params params = { .threads = 1 };
    return shk_gradients("tests/golden/griffin", &params, (int32_t[]){ 2, 5, 9 }, 3, scratch("written"), NULL, err);
}

/* A vocabulary of its own each time, since that keeps what the first grammar makes. Masks are kept where there is memory for that.
 * */
static shk_status follow_grammar(shk_error *err) {
    static const char schema[] =
        "{\"$defs\":{\"s\":{\"type\":\"string\",\"pattern\":\"^[ab]+$\"}},\"allOf\":[{\"properties\":{\"a\":"
                                 "{\"$ref\":\"#/$defs/s\"}}},{\"properties\":{\"a\":{\"enum\":[\"ab\",\"c\"]},\"n\":{\"minimum\":3"
                                 "}}}]}";
    static const char text[] = "{\"a\":\"ab\",\"n\":4";
    shk_tokenizer *t = json_tokenizer();
    shk_grammar *g = NULL;
    shk_matcher *m = NULL, *fork = NULL;
    uint32_t bits[(J_COUNT + 31) / 32];
    shk_status status = t ? shk_grammar_new(&g, t, schema, err) : SHK_E_MEMORY;
    if (!status) status = shk_matcher_new(&m, g, err);
    for (size_t i = 0; text[i] && !status; i++) {
        status = shk_matcher_mask(m, bits, J_COUNT, err);
        if (!status) status = shk_matcher_accept(m, J_BYTES + text[i], err);
    }
    if (!status) status = shk_matcher_fork(&fork, m, err);
    if (!status) status = shk_matcher_accept(fork, J_BYTES + '}', err);
    shk_matcher_free(fork);
    shk_matcher_free(m);
    shk_grammar_free(g);
    shk_tokenizer_free(t);
    return status;
}

/* jansson takes some of its own failures for a wrong token: where it reads, a wrong format is as good an error. */
static void exhaust(const char *what, shk_status (*run)(shk_error *err), bool reads_json) {
    shk_error err = { 0 };
    NEED(run(&err) == SHK_OK, "%s: %s", what, err.message);
    remove(scratch("written"));
    int files = count_entries(scratch_dir), wrong = 0, leaks = 0, left = 0;
    for (long n = 0;; n++) {
        long before = live;
        until_failure = n;
        shk_status status = run(&err);
        bool reached = until_failure == 0;
        until_failure = -1;
        leaks += live != before;
        if (!reached) {
            CHECK(status == SHK_OK && n > 5, "%s: status %d once %ld allocations succeed", what, status, n);
            break;
        }
        /* some memory may be had without need, as for a sort: then there is no error, and the file is there */
        if (status == SHK_OK) remove(scratch("written"));
        else wrong += status != SHK_E_MEMORY && !(reads_json && status == SHK_E_FORMAT);
        left += count_entries(scratch_dir) != files;
    }
    CHECK(wrong == 0, "%s: %d errors do not speak of memory, the last: %s", what, wrong, err.message);
    CHECK(leaks == 0, "%s: %d leaks", what, leaks);
    CHECK(left == 0, "%s: %d times a file was left behind", what, left);
}

int main(void) {
    static const char text[] = "\x3a\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}     abc";
    static const char map[] = "{\"weight_map\":{\"a\":\"1.safetensors\"}}";
    scratch_file("1.safetensors", text, sizeof text - 1);
    scratch_file("model.safetensors.index.json", map, sizeof map - 1);
    exhaust("opening GGUF", open_gguf, false);
    exhaust("opening safetensors", open_safetensors, true);
    exhaust("writing GGUF", write_gguf, false);
    exhaust("writing safetensors", write_safetensors, false);
    exhaust("gradients", write_gradients, true);
    exhaust("a grammar", follow_grammar, true);
    return test_done();
}

#else

int main(void) {
    SKIP("failing allocations: a sanitizer has taken malloc");
    return test_done();
}

#endif
