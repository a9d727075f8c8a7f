#include "file/tensors.h"

#include "../test.h"

static shk_tensors table(void) {
    shk_tensors t = { .path = shk_strdup("a/file") };
    NEED(t.path, "memory");
    return t;
}

static void test_find(void) {
    shk_tensors t = table();
    shk_error err;
    char name[32];
    int wrong = 0;
    CHECK(shk_tensors_find(&t, "x") == NULL, "found in nothing");
    for (unsigned i = 0; i < 20000; i++) {
        snprintf(name, sizeof name, "layer.%u.weight", i);
        wrong += shk_tensors_add(&t, &(shk_tensor){ .name = name, .n_dims = 1, .shape = { i } }, &err) != SHK_OK;
    }
    for (unsigned i = 0; i < 20000; i++) {
        snprintf(name, sizeof name, "layer.%u.weight", i);
        const shk_tensor *found = shk_tensors_find(&t, name);
        wrong += !found || found != &t.items[i] || found->n_elem != i || found->n_bytes != 4 * i || strcmp(found->name, name);
    }
    CHECK(wrong == 0 && t.n == 20000, "%d of 20000 are wrong", wrong);
    CHECK(shk_tensors_find(&t, "layer.20000.weight") == NULL && shk_tensors_find(&t, "") == NULL, "found what is not there");
    shk_tensors_free(&t);
    CHECK(t.items == NULL && t.n == 0, "not zeroed");
    shk_tensors_free(&t);
}

static void test_measure(void) {
    shk_tensor t = { .type = SHK_Q4_K, .n_dims = 3, .shape = { 2, 3, 512, 9 } };
    CHECK(shk_tensor_measure(&t) && t.n_elem == 3072 && t.n_bytes == 3072 / 256 * 144, "%zu, %zu", t.n_elem, t.n_bytes);
    t = (shk_tensor){ .type = SHK_F32 };
    CHECK(shk_tensor_measure(&t) && t.n_elem == 1 && t.n_bytes == 4, "a scalar has %zu", t.n_elem);
    t = (shk_tensor){ .type = SHK_F32, .n_dims = 4, .shape = { 1u << 31, 1u << 31, 0, 7 } };
    CHECK(shk_tensor_measure(&t) && t.n_elem == 0 && t.n_bytes == 0, "no elements");
    static const shk_tensor bad[] = {
        { .type = SHK_Q8_0 },
        { .type = SHK_Q8_0, .n_dims = 2, .shape = { 32, 31 } },
        { .type = SHK_Q6_K, .n_dims = 1, .shape = { 128 } },
        { .type = SHK_I8, .n_dims = 2, .shape = { 1ull << 32, 1ull << 32 } },
        { .type = SHK_I8, .n_dims = 4, .shape = { 65536, 65536, 65536, 65536 } },
        { .type = SHK_F32, .n_dims = 1, .shape = { 1ull << 62 } },
        { .type = SHK_F64, .n_dims = 2, .shape = { 1ull << 31, 1ull << 31 } },
        { .type = SHK_TYPE_COUNT, .n_dims = 1, .shape = { 32 } },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        t = bad[i], t.n_bytes = 7;
        CHECK(!shk_tensor_measure(&t) && t.n_bytes == 7, "case %zu", i);
    }
}

static void refused(shk_tensors *t, const char *name, uint64_t dim, const char *why) {
    shk_error err = { 0 };
    size_t n = t->n;
    CHECK(shk_tensors_add(t, &(shk_tensor){ .name = name, .n_dims = 2, .shape = { 1, dim } }, &err) == SHK_E_FORMAT, "%s", name);
    CHECK(strncmp(err.message, "a/file: ", 8) == 0 && strstr(err.message, why) && t->n == n, "%s", err.message);
}

static void test_refused(void) {
    shk_tensors t = table();
    shk_error err;
    CHECK(shk_tensors_add(&t, &(shk_tensor){ .name = "x" }, &err) == SHK_OK, "%s", err.message);
    refused(&t, "x", 1, "two tensors x");
    refused(&t, "", 1, "is empty");
    refused(&t, "x\ny", 1, "control characters: \"x?y\"");
    refused(&t, "y\x7f", 1, "control characters");
    refused(&t, "large", UINT64_MAX, "large: a shape of [1, 18446744073709551615]");
    CHECK(shk_name_valid("grüße", strlen("grüße")) && !shk_name_valid("a\0b", 3) && !shk_name_valid("", 0), "names");
    shk_tensors_free(&t);
}

static void test_overlap(void) {
    static const uint8_t data[64];
    shk_error err;
    for (int gap = -1; gap <= 1; gap++) {
        shk_tensors t = table();
        static const shk_tensor items[] = { { .name = "last" }, { .name = "first" }, { .name = "empty", .n_dims = 1 } };
        for (int i = 0; i < 3; i++) NEED(shk_tensors_add(&t, &items[i], &err) == SHK_OK, "%s", err.message);
        t.items[0].data = data + 20, t.items[1].data = data + 16 - gap, t.items[2].data = data + 22;
        shk_status status = shk_tensors_check_overlap(&t, &err);
        CHECK(status == (gap < 0 ? SHK_E_FORMAT : SHK_OK), "a gap of %d bytes gives %d", gap, status);
        if (status) CHECK(strcmp(err.message, "a/file: tensors first and last overlap") == 0, "%s", err.message);
        shk_tensors_free(&t);
    }
}

static void test_shape_string(void) {
    char buf[128], little[5];
    uint64_t shape[] = { UINT64_MAX, 0, 3, UINT64_MAX };
    CHECK(strcmp(shk_shape_string(buf, sizeof buf, shape, 0), "[]") == 0, "%s", buf);
    CHECK(strcmp(shk_shape_string(buf, sizeof buf, shape + 1, 2), "[0, 3]") == 0, "%s", buf);
    shk_shape_string(buf, sizeof buf, shape, 4);
    CHECK(strcmp(buf, "[18446744073709551615, 0, 3, 18446744073709551615]") == 0, "%s", buf);
    CHECK(strcmp(shk_shape_string(little, sizeof little, shape + 1, 2), "[0, ") == 0, "%s", little);
}

int main(void) {
    test_find();
    test_measure();
    test_refused();
    test_overlap();
    test_shape_string();
    return test_done();
}
