#include "file/cursor.h"

#include "../test.h"

static const uint8_t bytes[] = { 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
                                 0x00, 0x00, 0x80, 0x3f };

static void test_values(void) {
    shk_cursor c = { .data = bytes, .size = sizeof bytes };
    CHECK(shk_cursor_u8(&c) == 0x01, "u8");
    CHECK(shk_cursor_u16(&c) == 0x0302, "u16");
    CHECK(shk_cursor_u32(&c) == 0x07060504, "u32");
    CHECK(shk_cursor_u64(&c) == 0x0f0e0d0c0b0a0908, "u64");
    CHECK(shk_cursor_left(&c) == 4 && shk_cursor_f32(&c) == 1.0f, "f32");
    CHECK(c.at == sizeof bytes && !c.failed && shk_cursor_left(&c) == 0, "at the end");
    CHECK(shk_cursor_take(&c, 0, 8) == bytes + sizeof bytes && !c.failed, "nothing can be taken at the end");
}

static void test_sticks(void) {
    shk_cursor c = { .data = bytes, .size = 6, .at = 3 };
    CHECK(shk_cursor_u32(&c) == 0 && c.failed && c.at == 3, "one byte too many");
    CHECK(shk_cursor_u8(&c) == 0 && shk_cursor_take(&c, 1, 1) == NULL && shk_cursor_take(&c, 0, 1) == NULL, "the failure sticks");
    CHECK(shk_cursor_left(&c) == 0, "nothing is left");
}

static void test_overflow(void) {
    static const struct {
        uint64_t n;
        size_t size;
    } cases[] = { { UINT64_MAX, 1 }, { UINT64_MAX, 8 }, { UINT64_MAX / 8 + 2, 8 }, { 1, SIZE_MAX }, { 1ull << 32, 1ull << 32 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        shk_cursor c = { .data = bytes, .size = sizeof bytes, .at = 1 };
        CHECK(shk_cursor_take(&c, cases[i].n, cases[i].size) == NULL && c.failed, "case %zu", i);
    }
    shk_cursor c = { .data = bytes, .size = 9, .at = 1 };
    CHECK(shk_cursor_take(&c, 2, 4) == bytes + 1 && c.at == 9, "all that there is");
    CHECK(shk_cursor_take(&c, UINT64_MAX, 0) == bytes + 9 && !c.failed, "items of no bytes");
}

int main(void) {
    test_values();
    test_sticks();
    test_overflow();
    return test_done();
}
