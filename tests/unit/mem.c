#include "scratch.h"

#include "mem.h"

static void test_sizes(void) {
    size_t v = 7;
    CHECK(shk_mul(&v, 3, 5) && v == 15, "%zu", v);
    CHECK(shk_mul(&v, SIZE_MAX, 1) && v == SIZE_MAX, "%zu", v);
    CHECK(shk_mul(&v, SIZE_MAX, 0) && v == 0, "%zu", v);
    v = 7;
    CHECK(!shk_mul(&v, SIZE_MAX / 2 + 1, 2) && v == 7, "%zu", v);
    CHECK(!shk_add(&v, SIZE_MAX, 1) && v == 7, "%zu", v);
    CHECK(shk_add(&v, SIZE_MAX - 1, 1) && v == SIZE_MAX, "%zu", v);
}

static void test_heap(void) {
    uint64_t count = shk_alloc_count();
    void *none = shk_calloc(0, 8);
    CHECK(none, "no pointer for nothing");
    uint8_t *p = shk_calloc(100, 3);
    NEED(p, "memory");
    bool zero = true;
    for (int i = 0; i < 300; i++) zero = zero && p[i] == 0;
    CHECK(zero, "not zeroed");
    p[0] = 5;
    CHECK(shk_realloc(p, SIZE_MAX, 2) == NULL && p[0] == 5, "an overflow was not refused");
    uint8_t *q = shk_realloc(p, 1000, 1);
    NEED(q, "memory");
    CHECK(q[0] == 5, "content was lost");
    CHECK(shk_calloc(SIZE_MAX, 2) == NULL, "an overflow was not refused");
    char *copy = shk_memdup("ab\0c", 4), *text = shk_strdup("text");
    NEED(copy && text, "memory");
    CHECK(memcmp(copy, "ab\0c", 5) == 0 && strcmp(text, "text") == 0, "copies differ");
    CHECK(shk_memdup("", SIZE_MAX) == NULL, "an overflow was not refused");
    CHECK(shk_alloc_count() >= count + 5, "allocations are not counted");
    free(none), free(q), free(copy), free(text);
}

static void test_buffer(void) {
    shk_buffer b = { .cap = 1000 };
    CHECK(shk_buffer_append(&b, "", 0) && b.n == 0 && b.data[0] == 0, "nothing appended gives an empty string");
    CHECK(shk_buffer_append(&b, "abc", 3) && shk_buffer_printf(&b, "-%d", 42), "append");
    CHECK(b.n == 6 && strcmp(b.data, "abc-42") == 0, "%s", b.data);
    while (shk_buffer_append(&b, "0123456789", 10)) continue;
    CHECK(b.n == 996, "%zu bytes where the cap is 1000", b.n);
    CHECK(shk_buffer_append(&b, "1234", 4) && b.n == 1000 && b.data[1000] == 0, "up to the cap");
    CHECK(!shk_buffer_append(&b, "5", 1) && !shk_buffer_printf(&b, "5") && b.n == 1000, "past the cap");
    CHECK(!shk_buffer_append(&b, "5", SIZE_MAX), "an overflow was not refused");
    shk_buffer_free(&b);
    CHECK(b.data == NULL && b.n == 0 && shk_buffer_append(&b, "x", 1), "a freed buffer can be used again");
    shk_buffer_free(&b);
}

static void refuse(const char *path, const char *why) {
    shk_map map;
    shk_error err;
    CHECK(shk_map_open(&map, path, &err) == SHK_E_IO, "%s was mapped", path);
    CHECK(strstr(err.message, path) && strstr(err.message, why), "%s", err.message);
    CHECK(map.data == NULL && map.size == 0, "something is left");
    shk_map_close(&map);
}

static void test_map(void) {
    shk_map map;
    shk_error err;
    CHECK(shk_map_open(&map, scratch_file("five", "12345", 5), &err) == SHK_OK, "%s", err.message);
    CHECK(map.size == 5 && memcmp(map.data, "12345", 5) == 0, "%zu bytes", map.size);
    shk_map_close(&map);
    CHECK(map.data == NULL, "not zeroed");
    CHECK(shk_map_open(&map, scratch_file("none", "", 0), &err) == SHK_OK && map.data && map.size == 0, "an empty file");
    shk_map_close(&map);
    NEED(symlink("five", scratch("link")) == 0 && mkfifo(scratch("fifo"), 0600) == 0, "link and FIFO");
    CHECK(shk_map_open(&map, scratch("link"), &err) == SHK_OK && map.size == 5, "%s", err.message);
    shk_map_close(&map);
    refuse(scratch("missing"), "No such file");
    refuse(scratch("fifo"), "not a regular file");
    refuse(scratch("five/x"), "Not a directory");
    refuse("/dev/zero", "not a regular file");
    refuse("/tmp", "is a directory");
}

static void test_reserve(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)1 << 36;
    uint8_t *p = shk_reserve(size);
    NEED(p, "64 GiB of addresses");
    CHECK((uintptr_t)p % page == 0 && p[0] == 0 && p[size - 1] == 0, "aligned and zero");
    memset(p, 1, 4 * page);
    shk_discard(p, page - 1, page + 2); /* one whole page */
    CHECK(p[page - 1] == 1 && p[page] == 0 && p[2 * page - 1] == 0 && p[2 * page] == 1, "exactly the second page is discarded");
    shk_discard(p, 1, page);
    CHECK(p[1] == 1, "no whole page, nothing discarded");
    shk_release(p, size);
    shk_release(NULL, 0);
    CHECK(shk_reserve(SIZE_MAX) == NULL, "all addresses were given away");
}

static void test_arena(void) {
    shk_arena *a = shk_arena_new();
    NEED(a, "memory");
    unsigned long long seed = 1;
    size_t total = 0;
    bool apart = true; /* an allocation that overlaps an earlier one finds its bytes set */
    for (int i = 0; i < 2000; i++) {
        size_t n = test_random(&seed) % (i % 100 ? 5000 : 5000000);
        uint8_t *p = shk_arena_alloc(a, n, 1);
        if (!p || (uintptr_t)p % 64) NEED(false, "%zu bytes at %p", n, (void *)p);
        for (size_t k = 0; k < n && k < 5000; k++) apart = apart && p[k] == 0;
        memset(p, 0xff, n);
        total += n;
    }
    CHECK(apart, "an allocation is not zero");
    CHECK(shk_arena_bytes(a) >= total && shk_arena_bytes(a) < total + 2000 * 64, "%zu for %zu", shk_arena_bytes(a), total);
    CHECK(strcmp(shk_arena_strdup(a, "text"), "text") == 0, "strdup");
    CHECK(shk_arena_alloc(a, SIZE_MAX, 2) == NULL && shk_arena_alloc(a, SIZE_MAX - 10, 1) == NULL, "overflows");
    CHECK(shk_arena_alloc(a, 0, 8) != shk_arena_alloc(a, 0, 8), "nothing has an address of its own");
    shk_arena_free(a);
    shk_arena_free(NULL);
}

int main(void) {
    test_sizes();
    test_heap();
    test_buffer();
    test_map();
    test_reserve();
    test_arena();
    return test_done();
}
