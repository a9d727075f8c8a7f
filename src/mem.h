/* Memory: checked sizes, allocation, mapping. malloc and mmap are called in mem.c alone. */
#ifndef SHK_MEM_H
#define SHK_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sparkhawk.h"

/* *out = a*b, a+b; false on overflow (then *out is untouched). */
bool shk_mul(size_t *out, size_t a, size_t b);
bool shk_add(size_t *out, size_t a, size_t b);

/* n zeroed elements of size bytes; NULL on overflow or lack of memory; never NULL for n == 0. Freed by free(). */
void *shk_calloc(size_t n, size_t size);
void *shk_realloc(void *p, size_t n, size_t size); /* p is untouched on failure */
char *shk_strdup(const char *s);
void *shk_memdup(const void *p, size_t n); /* with a terminating zero byte behind it */

/* How many allocations the functions of this file have made in this process; a test checks that a step makes none. */
uint64_t shk_alloc_count(void);

/* A growing byte string with a cap. */
typedef struct shk_buffer {
    char *data; /* [n], terminated by a zero that n does not count once anything was appended */
    size_t n, capacity, cap; /* cap 0: no bound */
} shk_buffer;
bool shk_buffer_append(shk_buffer *b, const void *data, size_t n);
bool shk_buffer_printf(shk_buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void shk_buffer_free(shk_buffer *b);

/* A read-only file mapping. A file of 0 bytes maps to a valid pointer with size 0. Directories and devices are refused. */
typedef struct shk_map {
    const uint8_t *data;
    size_t size;
} shk_map;
shk_status shk_map_open(shk_map *map, const char *path, shk_error *err);
/* Pages inside [p, p + n) of a mapping are no longer counted as the process's; they are read again when touched. */
void shk_map_forget(const void *p, size_t n);
void shk_map_close(shk_map *map); /* zeroes *map; a zeroed one is allowed */

/* Zeroed memory of `size` bytes, aligned to a page, of which only touched pages take memory. NULL on failure. */
void *shk_reserve(size_t size);
void shk_want_huge(void *p, size_t size);            /* asks for large pages inside [p, p + size): fewer faults to fill it */
void shk_release(void *p, size_t size);             /* NULL is allowed */
void shk_discard(void *p, size_t offset, size_t n); /* gives whole pages inside [offset, offset+n) back; they read as zero */

/* A bump allocator for things that live as long as a model. */
typedef struct shk_arena shk_arena;
shk_arena *shk_arena_new(void);
void *shk_arena_alloc(shk_arena *a, size_t n, size_t size); /* zeroed, 64-byte aligned; NULL on overflow or lack of memory */
char *shk_arena_strdup(shk_arena *a, const char *s);
size_t shk_arena_bytes(const shk_arena *a);
void shk_arena_free(shk_arena *a); /* NULL is allowed */

#endif
