#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

bool shk_mul(size_t *out, size_t a, size_t b) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

bool shk_add(size_t *out, size_t a, size_t b) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

/* ---- heap ---- */

static _Atomic uint64_t alloc_count;

static void count_alloc(void) { atomic_fetch_add_explicit(&alloc_count, 1, memory_order_relaxed); }

uint64_t shk_alloc_count(void) { return atomic_load_explicit(&alloc_count, memory_order_relaxed); }

void *shk_calloc(size_t n, size_t size) {
    size_t bytes;
    if (!shk_mul(&bytes, n, size)) return NULL;
    count_alloc();
    return calloc(bytes ? bytes : 1, 1);
}

void *shk_realloc(void *p, size_t n, size_t size) {
    size_t bytes;
    if (!shk_mul(&bytes, n, size)) return NULL;
    count_alloc();
    return realloc(p, bytes ? bytes : 1);
}

void *shk_memdup(const void *p, size_t n) {
    size_t with_zero;
    char *copy = shk_add(&with_zero, n, 1) ? shk_calloc(with_zero, 1) : NULL;
    if (copy && n) memcpy(copy, p, n);
    return copy;
}

char *shk_strdup(const char *s) { return shk_memdup(s, strlen(s)); }

/* ---- buffer ---- */

/* Makes room for n more bytes and the terminating zero. */
static bool buffer_grow(shk_buffer *b, size_t n) {
    size_t need;
    if (!shk_add(&need, b->n, n) || (b->cap && need > b->cap) || !shk_add(&need, need, 1)) return false;
    if (need <= b->capacity) return true;
    size_t capacity = b->capacity > SIZE_MAX / 2 ? need : 2 * b->capacity;
    if (capacity < need) capacity = need;
    if (capacity < 64) capacity = 64;
    char *data = shk_realloc(b->data, capacity, 1);
    if (!data) return false;
    b->data = data, b->capacity = capacity;
    return true;
}

bool shk_buffer_append(shk_buffer *b, const void *data, size_t n) {
    if (!buffer_grow(b, n)) return false;
    if (n) memcpy(b->data + b->n, data, n);
    b->data[b->n += n] = 0;
    return true;
}

bool shk_buffer_printf(shk_buffer *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !buffer_grow(b, (size_t)n)) return false;
    va_start(args, format);
    vsnprintf(b->data + b->n, (size_t)n + 1, format, args);
    va_end(args);
    b->n += (size_t)n;
    return true;
}

void shk_buffer_free(shk_buffer *b) {
    free(b->data);
    b->data = NULL, b->n = b->capacity = 0;
}

/* ---- mapped files and reserved memory ---- */

static const uint8_t nothing[1];

shk_status shk_map_open(shk_map *map, const char *path, shk_error *err) {
    *map = (shk_map){ 0 };
    shk_status status = SHK_OK;
    struct stat st;
    /* without O_NONBLOCK a FIFO would wait for its writer */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return shk_fail_errno(err, "%s", path);
    if (fstat(fd, &st)) {
        status = shk_fail_errno(err, "%s", path);
    } else if (!S_ISREG(st.st_mode)) {
        status = shk_fail(err, SHK_E_IO, "%s: %s", path, S_ISDIR(st.st_mode) ? "is a directory" : "is not a regular file");
    } else if ((uintmax_t)st.st_size > SIZE_MAX) {
        status = shk_fail(err, SHK_E_MEMORY, "%s: too large for the address space", path);
    } else if (st.st_size == 0) {
        map->data = nothing;
    } else {
        count_alloc();
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) status = shk_fail_errno(err, "%s: cannot be mapped", path);
        else *map = (shk_map){ p, (size_t)st.st_size };
    }
    close(fd);
    return status;
}

/* madvise on the whole pages inside [p, p + n) */
static int advise(const void *p, size_t n, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)p + page - 1) / page * page, end = ((uintptr_t)p + n) / page * page;
    return begin < end ? madvise((void *)begin, end - begin, advice) : 0;
}

void shk_map_forget(const void *p, size_t n) { advise(p, n, MADV_DONTNEED); }

void shk_map_close(shk_map *map) {
    if (map->size) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (shk_map){ 0 };
}

void *shk_reserve(size_t size) {
    count_alloc();
    void *p = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void shk_want_huge(void *p, size_t size) { advise(p, size, MADV_HUGEPAGE); }

void shk_release(void *p, size_t size) {
    if (p) munmap(p, size ? size : 1);
}

void shk_discard(void *p, size_t offset, size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t begin = (offset + page - 1) / page * page, end = (offset + n) / page * page;
    if (begin >= end) return;
    /* locked pages cannot be given back */
    if (madvise((char *)p + begin, end - begin, MADV_DONTNEED)) memset((char *)p + begin, 0, end - begin);
}

/* ---- arena ---- */

enum { ALIGN = 64, BLOCK = 1 << 20 };

/* Blocks come from shk_reserve: already zero, and the part that is never used takes no memory. */
typedef struct block {
    struct block *older;
    size_t size, used; /* bytes, this header included */
} block;

struct shk_arena {
    block *newest;
    size_t bytes;
};

_Static_assert(sizeof(block) <= ALIGN, "a block's header fits before its first allocation");

shk_arena *shk_arena_new(void) { return shk_calloc(1, sizeof(shk_arena)); }

static bool arena_add_block(shk_arena *a, size_t bytes) {
    size_t size;
    if (!shk_add(&size, bytes, ALIGN)) return false;
    if (size < BLOCK) size = BLOCK;
    block *b = shk_reserve(size);
    if (!b) return false;
    *b = (block){ .older = a->newest, .size = size, .used = ALIGN };
    a->newest = b;
    return true;
}

void *shk_arena_alloc(shk_arena *a, size_t n, size_t size) {
    size_t bytes;
    if (!shk_mul(&bytes, n, size) || !shk_add(&bytes, bytes, ALIGN - 1)) return NULL;
    bytes = bytes / ALIGN * ALIGN;
    if (bytes == 0) bytes = ALIGN;
    if ((!a->newest || a->newest->size - a->newest->used < bytes) && !arena_add_block(a, bytes)) return NULL;
    void *p = (char *)a->newest + a->newest->used;
    a->newest->used += bytes;
    a->bytes += bytes;
    return p;
}

char *shk_arena_strdup(shk_arena *a, const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = shk_arena_alloc(a, n, 1);
    return copy ? memcpy(copy, s, n) : NULL;
}

size_t shk_arena_bytes(const shk_arena *a) { return a->bytes; }

void shk_arena_free(shk_arena *a) {
    if (!a) return;
    for (block *b = a->newest, *older; b; b = older) {
        older = b->older;
        shk_release(b, b->size);
    }
    free(a);
}
