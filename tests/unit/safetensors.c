#include "scratch.h"

#include "file/safetensors.h"
#include "file/writer.h"
#include "refused.h"

static shk_status open_and_free(const char *path, shk_error *err) {
    shk_tensors t;
    shk_status status = shk_safetensors_open(&t, path, err);
    shk_tensors_free(&t);
    return status;
}

static shk_status open_dir_and_free(const char *path, shk_error *err) {
    shk_tensors t;
    shk_status status = shk_safetensors_open_dir(&t, path, err);
    shk_tensors_free(&t);
    return status;
}

/* A file of a JSON header and data, in memory. */
static size_t build(uint8_t *to, const char *header, const void *data, size_t n) {
    uint64_t length = strlen(header);
    memcpy(to, &length, 8);
    memcpy(to + 8, header, length);
    memcpy(to + 8 + length, data, n);
    return 8 + length + n;
}

static const char *build_file(const char *name, const char *header, const void *data, size_t n) {
    static uint8_t bytes[4096];
    return scratch_file(name, bytes, build(bytes, header, data, n));
}

/* ---- one file ---- */

static const char *const header = "{\"__metadata__\":{\"x\":\"y\"},"
                                  "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[3,11]},"
                                  "\"a.weight\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                                  "\"\\u2603\":{\"data_offsets\":[11,13],\"shape\":[],\"dtype\":\"BF16\"}} ";
static const uint8_t data[13] = { 1, 2, 255, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0x80, 0x3f };

static void test_read(void) {
    shk_tensors t;
    shk_error err;
    const char *path = build_file("good.safetensors", header, data, sizeof data);
    NEED(shk_safetensors_open(&t, path, &err) == SHK_OK, "%s", err.message);
    const shk_tensor *a = shk_tensors_find(&t, "a.weight"), *b = shk_tensors_find(&t, "b"), *snow = shk_tensors_find(&t, "☃");
    NEED(a && b && snow && t.n == 3, "%zu tensors", t.n);
    float y[3];
    CHECK(b == t.items && b->type == SHK_F32 && b->n_dims == 2 && b->shape[0] == 2 && b->shape[1] == 1 && b->n_bytes == 8, "b");
    shk_dequant_row(b->type, y, b->data, b->n_elem); /* at an odd address */
    CHECK(y[0] == 1 && y[1] == -2, "b holds %g, %g", y[0], y[1]);
    shk_dequant_row(a->type, y, a->data, a->n_elem);
    CHECK(a->n_elem == 3 && y[0] == 1 && y[2] == -1, "a holds %g .. %g", y[0], y[2]);
    shk_dequant_row(snow->type, y, snow->data, snow->n_elem);
    CHECK(snow->n_dims == 0 && snow->n_elem == 1 && y[0] == 1, "a scalar of %g", y[0]);
    CHECK(strcmp(t.path, path) == 0, "%s", t.path);
    shk_tensors_free(&t);
}

static void test_accepted(void) {
    static const char *const names[] = { "another-field", "empty", "metadata", "padded", "shapes", "types" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[96];
        shk_error err = { 0 };
        snprintf(path, sizeof path, "tests/fuzz/corpus/safetensors/%s.safetensors", names[i]);
        CHECK(open_and_free(path, &err) == SHK_OK, "%s", err.message);
    }
}

/* Cut at each place; each byte changed. In memory of exactly that size. */
static void test_damage(void) {
    shk_tensors t;
    static uint8_t whole[1024];
    size_t size = build(whole, header, data, sizeof data);
    int accepted = 0, refused = 0;
    for (size_t n = 0; n < size; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        if (!cut) NEED(cut, "memory");
        memcpy(cut, whole, n);
        accepted += shk_safetensors_parse(&t, "name", cut, n, NULL) == SHK_OK;
        shk_tensors_free(&t);
        free(cut);
    }
    CHECK(accepted == 0, "%d of the cut files were accepted", accepted);
    for (size_t i = 0; i < size - sizeof data; i++) {
        whole[i] ^= 0x80; /* no such byte can stand in this header */
        refused += shk_safetensors_parse(&t, "name", whole, size, NULL) != SHK_OK;
        whole[i] ^= 0x80;
        shk_tensors_free(&t);
    }
    CHECK(refused == (int)(size - sizeof data), "%d of the %zu changed files were refused", refused, size - sizeof data);
}

static void test_paths(void) {
    shk_error err;
    CHECK(open_and_free(scratch("missing"), &err) == SHK_E_IO && strstr(err.message, "missing: No such file"), "%s", err.message);
    CHECK(open_and_free("/tmp", &err) == SHK_E_IO && strstr(err.message, "is a directory"), "%s", err.message);
}

/* ---- a directory ---- */

static const char *one_tensor(const char *name) {
    static char text[128];
    snprintf(text, sizeof text, "{\"%s\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[0,3]}}", name);
    return text;
}

/* Directory `dir` with an index of this weight_map. */
static const char *indexed(const char *dir, const char *weight_map) {
    char name[128], text[1024];
    mkdir(scratch(dir), 0700);
    snprintf(name, sizeof name, "%s/model.safetensors.index.json", dir);
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":6},\"weight_map\":%s}", weight_map);
    scratch_file(name, text, strlen(text));
    return scratch(dir);
}

static void test_index(void) {
    shk_tensors t;
    shk_error err;
    const char *dir = indexed("two", "{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\",\"c\":\"1.safetensors\"}");
    build_file("two/1.safetensors", "{\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                                    "\"c\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[1,3]}}", data, 3);
    build_file("elsewhere", one_tensor("b"), data, 3);
    NEED(symlink("../elsewhere", scratch("two/2.safetensors")) == 0, "symlink");
    NEED(shk_safetensors_open_dir(&t, dir, &err) == SHK_OK, "%s", err.message);
    CHECK(t.n == 3 && t.n_maps == 2 && strcmp(t.path, dir) == 0, "%zu tensors in %zu files of %s", t.n, t.n_maps, t.path);
    const shk_tensor *b = shk_tensors_find(&t, "b"), *c = shk_tensors_find(&t, "c");
    CHECK(b && c && b->n_elem == 3 && c->n_elem == 2 && *(const uint8_t *)c->data == 2, "b and c");
    shk_tensors_free(&t);
}

static void refused(const char *dir, shk_status wanted, const char *why) {
    shk_error err = { 0 };
    CHECK(open_dir_and_free(dir, &err) == wanted, "%s: %s", why, err.message);
    CHECK(strncmp(err.message, dir, strlen(dir)) == 0 && strstr(err.message, why), "%s: %s", why, err.message);
}

static void test_index_refused(void) {
    mkdir(scratch("bad"), 0700);
    build_file("bad/1.safetensors", one_tensor("a"), data, 3);
    build_file("bad/2.safetensors", one_tensor("b"), data, 3);
    build_file("bad/3.safetensors", one_tensor("a"), data, 3);
    NEED(mkfifo(scratch("bad/fifo"), 0600) == 0 && mkdir(scratch("bad/dir"), 0700) == 0, "mkfifo");
    static const struct {
        const char *weight_map, *why;
        shk_status status;
    } cases[] = {
        { "[]", "weight_map is missing", SHK_E_FORMAT },
        { "{\"a\":1}", "tensor a is not in a file of this directory", SHK_E_FORMAT },
        { "{\"a\":\"../good.safetensors\"}", "tensor a is not in a file of this directory", SHK_E_FORMAT },
        { "{\"a\":\"/etc/passwd\"}", "tensor a is not in a file of this directory", SHK_E_FORMAT },
        { "{\"a\":\"dir/1.safetensors\"}", "tensor a is not in a file of this directory", SHK_E_FORMAT },
        { "{\"a\":\"..\"}", "tensor a is not in a file of this directory", SHK_E_FORMAT },
        { "{\"a\":\".\"}", "tensor a is not in a file of this directory", SHK_E_FORMAT },
        { "{\"a\":\"\"}", "tensor a is not in a file of this directory", SHK_E_FORMAT },
        { "{\"a\":\"1\\n\"}", "tensor a is not in a file of this directory", SHK_E_FORMAT },
        { "{\"a\":\"1\\u0000\"}", "JSON", SHK_E_FORMAT },
        { "{\"a\":\"9.safetensors\"}", "9.safetensors: No such file", SHK_E_IO },
        { "{\"a\":\"fifo\"}", "fifo: is not a regular file", SHK_E_IO },
        { "{\"a\":\"dir\"}", "dir: is a directory", SHK_E_IO },
        { "{\"a\":\"2.safetensors\"}", "tensor a is not in 2.safetensors", SHK_E_FORMAT },
        { "{\"b\":\"2.safetensors\",\"c\":\"1.safetensors\"}", "tensor c is not in 1.safetensors", SHK_E_FORMAT },
        { "{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}", "tensor b is not in 1.safetensors", SHK_E_FORMAT },
        { "{\"b\":\"2.safetensors\",\"a\":\"1.safetensors\",\"c\":\"3.safetensors\"}", "two tensors a", SHK_E_FORMAT },
        { "{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\",\"a\":\"1.safetensors\"}", "duplicate object key", SHK_E_FORMAT },
        { "{\"a\":\"model.safetensors.index.json\"}", "not a safetensors file", SHK_E_FORMAT },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(indexed("bad", cases[i].weight_map), cases[i].status, cases[i].why);
}

/* A tensor that is in the other of two files than the index says. */
static void test_index_crossed(void) {
    const char *dir = indexed("crossed", "{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\",\"c\":\"2.safetensors\"}");
    build_file("crossed/1.safetensors", "{\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                                        "\"c\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[1,3]}}", data, 3);
    build_file("crossed/2.safetensors", one_tensor("b"), data, 3);
    refused(dir, SHK_E_FORMAT, "tensor c is not in 2.safetensors");
}

static void test_no_index(void) {
    shk_error err;
    NEED(mkdir(scratch("plain"), 0700) == 0, "mkdir");
    refused(scratch("plain"), SHK_E_IO, "holds no *.safetensors");
    refused(scratch("missing"), SHK_E_IO, "No such file");
    build_file("plain/x.safetensors", one_tensor("a"), data, 3);
    build_file("plain/.hidden.safetensors", "{", data, 3);
    CHECK(open_dir_and_free(scratch("plain"), &err) == SHK_OK, "%s", err.message);
    build_file("plain/y.safetensors", one_tensor("a"), data, 2);
    refused(scratch("plain"), SHK_E_FORMAT, "holds several");
    build_file("plain/model.safetensors", one_tensor("a"), data, 3);
    CHECK(open_dir_and_free(scratch("plain"), &err) == SHK_OK, "%s", err.message);
    build_file("plain/model.safetensors", one_tensor("a"), data, 2);
    refused(scratch("plain"), SHK_E_FORMAT, "model.safetensors: tensor a: data_offsets 0 to 3, but there are 2 bytes");
}

/* ---- writing ---- */

static shk_status fill_name(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    (void)user, (void)err;
    for (size_t i = 0; i < t->n_bytes; i++) shk_writer_put(w, t->name, 1);
    return SHK_OK;
}

static void test_write(void) {
    shk_error err;
    shk_tensors t;
    const char *path = scratch("written.safetensors");
    shk_tensor items[] = {
        { .name = "x\"y", .type = SHK_BF16, .n_dims = 2, .shape = { 3, 5 } },
        { .name = "scalar", .type = SHK_F64 },
        { .name = "none", .type = SHK_I64, .n_dims = 1, .shape = { 0 } },
        { .name = "☃", .type = SHK_F32, .n_dims = 4, .shape = { 1, 2, 1, 2 } },
    };
    NEED(shk_safetensors_write(path, items, 4, fill_name, NULL, &err) == SHK_OK, "%s", err.message);
    NEED(shk_safetensors_open(&t, path, &err) == SHK_OK && t.n == 4, "%s", err.message);
    for (int i = 0; i < 4; i++) {
        const shk_tensor *read = &t.items[i];
        CHECK(strcmp(read->name, items[i].name) == 0 && read->type == items[i].type, "%s", items[i].name);
        CHECK(read->n_dims == items[i].n_dims, "%s has %u dimensions", items[i].name, read->n_dims);
        for (unsigned d = 0; d < read->n_dims; d++) CHECK(read->shape[d] == items[i].shape[d], "%s, dimension %u", read->name, d);
        if (read->n_bytes) CHECK(*(const char *)read->data == *read->name, "%s holds other data", read->name);
    }
    CHECK(((uintptr_t)t.items[0].data - (uintptr_t)t.maps[0].data) % 8 == 0, "data are not aligned");
    CHECK(t.items[3].data == (const uint8_t *)t.items[0].data + 38, "data are not one behind the other");
    CHECK(t.maps[0].size == (size_t)((const uint8_t *)t.items[3].data - t.maps[0].data) + 16, "something follows the data");
    CHECK(memcmp(t.maps[0].data + 8, "{\"__metadata__\":{\"format\":\"pt\"}", 31) == 0, "metadata");
    shk_tensors_free(&t);
}

static void write_fails(const shk_tensor *item, const char *why) {
    shk_error err = { 0 };
    int before = count_entries(scratch_dir);
    CHECK(shk_safetensors_write(scratch("failed"), item, 1, fill_name, NULL, &err) != SHK_OK, "%s: it was written", why);
    CHECK(strstr(err.message, why), "%s: %s", why, err.message);
    CHECK(count_entries(scratch_dir) == before, "%s: something was left behind", why);
}

static void test_write_failures(void) {
    write_fails(&(shk_tensor){ .name = "q", .type = SHK_Q8_0, .n_dims = 1, .shape = { 32 } }, "q: safetensors files hold no q8_0");
    write_fails(&(shk_tensor){ .name = "\xff", .type = SHK_F32 }, "not UTF-8");
    write_fails(&(shk_tensor){ .name = "", .type = SHK_F32 }, "is empty");
}

int main(void) {
    test_read();
    test_accepted();
    check_refused("tests/fuzz/refused/safetensors", open_and_free);
    test_damage();
    test_paths();
    test_index();
    test_index_refused();
    test_index_crossed();
    test_no_index();
    test_write();
    test_write_failures();
    return test_done();
}
