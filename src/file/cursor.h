/* Reads little-endian values out of bytes that nobody has checked. A read that would pass the end fails and sticks: it and all
 * later ones give zeros (or NULL), `at` stays where it was, and `failed` says so. A parser may thus read a whole record and
 * look once, as long as it looks before it loops over or allocates by a count. */
#ifndef SHK_FILE_CURSOR_H
#define SHK_FILE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct shk_cursor {
    const uint8_t *data;
    size_t size, at;
    bool failed;
} shk_cursor;

/* The next n items of size bytes, in place; NULL on failure. */
const uint8_t *shk_cursor_take(shk_cursor *c, uint64_t n, size_t size);
size_t shk_cursor_left(const shk_cursor *c); /* bytes up to the end; 0 once failed */

uint8_t shk_cursor_u8(shk_cursor *c);
uint16_t shk_cursor_u16(shk_cursor *c);
uint32_t shk_cursor_u32(shk_cursor *c);
uint64_t shk_cursor_u64(shk_cursor *c);
float shk_cursor_f32(shk_cursor *c);

#endif
