#include "file/cursor.h"

#include <string.h>

size_t shk_cursor_left(const shk_cursor *c) { return c->failed ? 0 : c->size - c->at; }

const uint8_t *shk_cursor_take(shk_cursor *c, uint64_t n, size_t size) {
    if (c->failed || (size && n > (c->size - c->at) / size)) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *p = c->data + c->at;
    c->at += (size_t)n * size;
    return p;
}

#define READER(name, type)                                       \
    type shk_cursor_##name(shk_cursor *c) {                      \
        type value = 0;                                          \
        const uint8_t *p = shk_cursor_take(c, 1, sizeof value);  \
        if (p) memcpy(&value, p, sizeof value);                  \
        return value;                                            \
    }

READER(u8, uint8_t)
READER(u16, uint16_t)
READER(u32, uint32_t)
READER(u64, uint64_t)
READER(f32, float)
