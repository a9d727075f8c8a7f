#include "scratch.h"

#include <math.h>

#include "file/gguf.h"
#include "file/writer.h"
#include "refused.h"

static const char *const fixture = "tests/golden/quants.gguf"; /* tools/make_quant_fixture.py */

static shk_gguf open_good(const char *path) {
    shk_gguf g;
    shk_error err;
    NEED(shk_gguf_open(&g, path, &err) == SHK_OK, "%s", err.message);
    return g;
}

/* ---- reading what another implementation wrote ---- */

static void test_scalars(const shk_gguf *g) {
    static const struct {
        const char *key;
        int64_t value;
    } integers[] = {
        { "uint8", UINT8_MAX / 3 }, { "uint16", UINT16_MAX / 3 }, { "uint32", UINT32_MAX / 3 }, { "uint64", INT64_MAX / 3 * 2 + 1 },
        { "int8", -43 },            { "int16", -10923 },          { "int32", -715827883 },      { "int64", -3074457345618258603 },
    };
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        const shk_meta *m = shk_gguf_find(g, integers[i].key);
        int64_t integer = 0;
        double real = 0;
        NEED(m, "%s", integers[i].key);
        CHECK(shk_meta_int(m, &integer) && integer == integers[i].value, "%s is %jd", m->key, (intmax_t)integer);
        CHECK(shk_meta_real(m, &real) && real == (double)integers[i].value, "%s is %g", m->key, real);
    }
    const shk_meta *b = shk_gguf_find(g, "bool"), *f = shk_gguf_find(g, "float32"), *d = shk_gguf_find(g, "float64");
    NEED(b && f && d, "keys");
    int64_t integer = 7;
    double real = 7;
    shk_str s = { "", 0 };
    CHECK(shk_meta_int(b, &integer) && integer == 1 && !shk_meta_real(b, &real) && !shk_meta_str(b, &s), "bool");
    integer = 7;
    CHECK(shk_meta_real(f, &real) && real == 0.1f && !shk_meta_int(f, &integer) && integer == 7, "float32");
    CHECK(shk_meta_real(d, &real) && real == 0.1 && !shk_meta_int(d, &integer), "float64");
    CHECK(shk_meta_str(shk_gguf_find(g, "string"), &s) && s.n == 8 && memcmp(s.data, "snow ☃", 8) == 0, "string");
    CHECK(!shk_meta_int(shk_gguf_find(g, "string"), &integer), "a string is no integer");
    CHECK(!shk_meta_real(shk_gguf_find(g, "string"), &real), "a string is no number");
    CHECK(shk_gguf_find(g, "strin") == NULL && shk_gguf_find(g, "") == NULL, "found what is not there");
}

static void test_arrays(const shk_gguf *g) {
    const shk_meta *strings = shk_gguf_find(g, "strings"), *ints = shk_gguf_find(g, "ints"), *floats = shk_gguf_find(g, "floats"),
                   *bools = shk_gguf_find(g, "bools");
    NEED(strings && ints && floats && bools && strings->n == 4 && ints->n == 3 && floats->n == 2 && bools->n == 3, "arrays");
    static const char *const wanted[] = { "", "a", "bc", "☃" };
    const uint8_t *at = strings->data;
    for (int i = 0; i < 4; i++) {
        shk_str s = shk_meta_next_str(&at);
        CHECK(s.n == strlen(wanted[i]) && memcmp(s.data, wanted[i], s.n) == 0, "string %d", i);
    }
    CHECK(at == strings->data + strings->n_bytes, "n_bytes of strings");
    int64_t integer = 0;
    double real = 0;
    shk_str s;
    static const int wanted_ints[] = { 1, -2, 3 };
    for (uint64_t i = 0; i < 3; i++) {
        CHECK(shk_meta_int_at(ints, i, &integer) && integer == wanted_ints[i], "ints[%ju] is %jd", (uintmax_t)i, (intmax_t)integer);
        CHECK(shk_meta_int_at(bools, i, &integer) && integer == (i != 1), "bools[%ju] is %jd", (uintmax_t)i, (intmax_t)integer);
    }
    CHECK(shk_meta_real_at(floats, 0, &real) && real == 0.5, "floats[0] is %g", real);
    CHECK(shk_meta_real_at(floats, 1, &real) && real == -0.25, "floats[1] is %g", real);
    CHECK(!shk_meta_int_at(ints, 3, &integer) && !shk_meta_real_at(floats, UINT64_MAX, &real), "past the end");
    CHECK(!shk_meta_int_at(strings, 0, &integer) && !shk_meta_int_at(floats, 0, &integer), "elements of other types");
    CHECK(!shk_meta_int(ints, &integer) && !shk_meta_str(strings, &s), "arrays are no scalars");
    CHECK(!shk_meta_int_at(shk_gguf_find(g, "uint8"), 0, &integer), "scalars are no arrays");
}

static void test_u64_that_does_not_fit(void) {
    shk_meta m = { .key = "x", .type = SHK_META_U64, .data = (const uint8_t *)&(uint64_t){ UINT64_MAX } };
    int64_t integer = 7;
    double real;
    CHECK(!shk_meta_int(&m, &integer) && integer == 7 && shk_meta_real(&m, &real) && real == 0x1p64, "a large u64");
}

static void test_tensors(const shk_gguf *g) {
    const shk_tensor *t = shk_tensors_find(&g->tensors, "q6_k");
    NEED(t && g->tensors.n == 22, "%zu tensors", g->tensors.n);
    CHECK(t->type == SHK_Q6_K && t->n_dims == 2 && t->shape[0] == 1 && t->shape[1] == 768 && t->shape[2] == 1 && t->n_elem == 768 &&
              t->n_bytes == 630, "q6_k");
    CHECK(strcmp(g->path, fixture) == 0 && g->tensors.n_maps == 1, "path and map");
}

static void test_probe(void) {
    CHECK(shk_gguf_probe(fixture), "not recognized");
    CHECK(!shk_gguf_probe(scratch_file("short", "GGU", 3)), "too short");
    CHECK(!shk_gguf_probe(scratch("missing")) && !shk_gguf_probe("/tmp"), "no files");
}

/* ---- files that are wrong ---- */

static shk_status open_and_free(const char *path, shk_error *err) {
    shk_gguf g;
    shk_status status = shk_gguf_open(&g, path, err);
    shk_gguf_free(&g);
    return status;
}

static shk_status parse_and_free(const void *data, size_t n, shk_error *err) {
    shk_gguf g;
    shk_status status = shk_gguf_parse(&g, "name", data, n, err);
    shk_gguf_free(&g);
    return status;
}

static void test_accepted(void) {
    static const char *const names[] = { "alignment", "empty",      "empty-arrays", "scalar-and-empty", "tensors",
                                         "values",    "vocabulary", "version-2" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[96];
        shk_error err = { 0 };
        snprintf(path, sizeof path, "tests/fuzz/corpus/gguf/%s.gguf", names[i]);
        CHECK(open_and_free(path, &err) == SHK_OK, "%s", err.message);
    }
}

/* The whole fixture, cut at each place and with each byte changed, in memory of exactly that size. */
static void test_damage(void) {
    shk_map map;
    shk_error err;
    NEED(shk_map_open(&map, fixture, &err) == SHK_OK, "%s", err.message);
    int accepted = 0;
    for (size_t n = 0; n <= map.size - 32; n += n < 2500 ? 1 : 97) { /* the last 32 bytes may be padding */
        void *cut = malloc(n ? n : 1);
        if (!cut) NEED(cut, "memory");
        memcpy(cut, map.data, n);
        accepted += parse_and_free(cut, n, &err) == SHK_OK;
        free(cut);
    }
    CHECK(accepted == 0, "%d of the cut files were accepted", accepted);
    uint8_t *changed = shk_memdup(map.data, map.size);
    NEED(changed, "memory");
    int refused = 0;
    for (size_t i = 0; i < 2500; i++) {
        static const uint8_t changes[] = { 0xff, 0x80, 0x01 };
        for (int k = 0; k < 3; k++) {
            changed[i] ^= changes[k];
            refused += parse_and_free(changed, map.size, &err) != SHK_OK;
            changed[i] ^= changes[k];
        }
    }
    CHECK(refused > 1000, "only %d of the changed files were refused", refused);
    CHECK(parse_and_free(changed, map.size, &err) == SHK_OK, "%s", err.message);
    free(changed);
    shk_map_close(&map);
}

static void test_paths(void) {
    shk_error err;
    CHECK(open_and_free(scratch("missing"), &err) == SHK_E_IO && strstr(err.message, "missing: No such file"), "%s", err.message);
    CHECK(open_and_free("/tmp", &err) == SHK_E_IO && strstr(err.message, "is a directory"), "%s", err.message);
    CHECK(open_and_free(scratch_file("none", "", 0), &err) == SHK_E_FORMAT, "%s", err.message);
    CHECK(strstr(err.message, "none: is not a GGUF file"), "%s", err.message);
}

/* ---- writing ---- */

static shk_status fill_copy(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    (void)err;
    const shk_tensor *from = shk_tensors_find(user, t->name);
    NEED(from, "%s", t->name);
    shk_writer_put(w, from->data, from->n_bytes);
    return SHK_OK;
}

/* A copy is equal, byte by byte, to the file that the other implementation wrote. */
static void test_copy(shk_gguf *g) {
    const char *path = scratch("copy.gguf");
    shk_error err;
    shk_map a, b;
    shk_gguf_meta *meta = shk_gguf_meta_new();
    NEED(meta, "memory");
    for (size_t i = 0; i < g->n_meta; i++) shk_gguf_put_copy(meta, &g->meta[i]);
    CHECK(shk_gguf_write(path, meta, g->tensors.items, g->tensors.n, fill_copy, &g->tensors, &err) == SHK_OK, "%s", err.message);
    NEED(!shk_map_open(&a, fixture, &err) && !shk_map_open(&b, path, &err), "%s", err.message);
    CHECK(a.size == b.size && memcmp(a.data, b.data, a.size) == 0, "the copy has %zu bytes for %zu", b.size, a.size);
    shk_map_close(&a);
    shk_map_close(&b);
    shk_gguf_meta_free(meta);
}

static void test_put(void) {
    const char *path = scratch("put.gguf");
    shk_error err;
    shk_gguf_meta *meta = shk_gguf_meta_new();
    NEED(meta, "memory");
    shk_gguf_put_str(meta, "s", "replaced below, by something shorter");
    shk_gguf_put_u32(meta, "u", 4000000000u);
    shk_gguf_put_str(meta, "s", "text");
    shk_gguf_put_f32(meta, "f", -1.5f);
    shk_gguf_put_bool(meta, "b", true);
    shk_gguf_put_strs(meta, "ss", (shk_str[]){ { "a\0b", 3 }, { "", 0 } }, 2);
    shk_gguf_put_f32s(meta, "fs", (float[]){ 1, 2 }, 2);
    shk_gguf_put_i32s(meta, "is", (int32_t[]){ -1 }, 1);
    shk_gguf_put_bools(meta, "bs", (bool[]){ false, true }, 2);
    shk_gguf_put_i32s(meta, "none", NULL, 0);
    const uint8_t other[] = { 64, 0, 0, 0 };
    shk_gguf_put_copy(meta, &(shk_meta){ .key = "general.alignment", .type = SHK_META_U32, .data = other, .n_bytes = 4 });
    NEED(shk_gguf_write(path, meta, NULL, 0, fill_copy, NULL, &err) == SHK_OK, "%s", err.message);
    shk_gguf_meta_free(meta);
    shk_gguf g = open_good(path);
    int64_t integer;
    double real;
    shk_str s;
    CHECK(g.n_meta == 9 && g.tensors.n == 0, "%zu keys", g.n_meta);
    CHECK(strcmp(g.meta[0].key, "s") == 0 && shk_meta_str(&g.meta[0], &s) && s.n == 4 && memcmp(s.data, "text", 4) == 0, "s");
    CHECK(shk_meta_int(shk_gguf_find(&g, "u"), &integer) && integer == 4000000000, "u");
    CHECK(shk_meta_real(shk_gguf_find(&g, "f"), &real) && real == -1.5, "f");
    CHECK(shk_meta_int(shk_gguf_find(&g, "b"), &integer) && integer == 1, "b");
    const uint8_t *at = shk_gguf_find(&g, "ss")->data;
    s = shk_meta_next_str(&at);
    CHECK(s.n == 3 && memcmp(s.data, "a\0b", 3) == 0 && shk_meta_next_str(&at).n == 0, "ss");
    CHECK(shk_meta_real_at(shk_gguf_find(&g, "fs"), 1, &real) && real == 2, "fs");
    CHECK(shk_meta_int_at(shk_gguf_find(&g, "is"), 0, &integer) && integer == -1, "is");
    CHECK(shk_meta_int_at(shk_gguf_find(&g, "bs"), 1, &integer) && integer == 1, "bs");
    CHECK(shk_gguf_find(&g, "none")->n == 0, "none");
    shk_gguf_free(&g);
}

static shk_status fill_short(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    (void)user, (void)err;
    shk_writer_put(w, "", t->n_bytes > 0);
    return SHK_OK;
}

static shk_status fill_fails(void *user, const shk_tensor *t, shk_writer *w, shk_error *err) {
    (void)user, (void)t, (void)w;
    return shk_fail(err, SHK_E_NUMERIC, "the fill's own message");
}

static void write_fails(const shk_tensor *items, size_t n, shk_fill_fn *fill, shk_status wanted, const char *why) {
    shk_error err = { 0 };
    shk_gguf_meta *meta = shk_gguf_meta_new();
    NEED(meta, "memory");
    int before = count_entries(scratch_dir);
    CHECK(shk_gguf_write(scratch("failed.gguf"), meta, items, n, fill, NULL, &err) == wanted, "%s: %s", why, err.message);
    CHECK(strstr(err.message, why), "%s: %s", why, err.message);
    CHECK(count_entries(scratch_dir) == before, "%s: something was left behind", why);
    shk_gguf_meta_free(meta);
}

static void test_write_failures(void) {
    shk_tensor items[2] = { { .name = "a", .n_dims = 1, .shape = { 4 } }, { .name = "b", .n_dims = 1, .shape = { 4 } } };
    write_fails(items, 2, fill_short, SHK_E_ARGUMENT, "tensor a: 1 bytes were given for 16");
    write_fails(items, 2, fill_fails, SHK_E_NUMERIC, "the fill's own message");
    items[1].name = "a";
    write_fails(items, 2, fill_short, SHK_E_FORMAT, "two tensors a");
    items[0].shape[0] = UINT64_MAX;
    write_fails(items, 2, fill_short, SHK_E_FORMAT, "too large");
}

int main(void) {
    shk_gguf g = open_good(fixture);
    test_scalars(&g);
    test_arrays(&g);
    test_u64_that_does_not_fit();
    test_tensors(&g);
    test_probe();
    test_accepted();
    check_refused("tests/fuzz/refused/gguf", open_and_free);
    test_damage();
    test_paths();
    test_copy(&g);
    test_put();
    test_write_failures();
    shk_gguf_free(&g);
    return test_done();
}
