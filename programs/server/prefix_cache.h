/* Sessions that are kept for the next request that begins with the same tokens. What they give is what a new session would, to the
 * bit: a state depends on its tokens alone.
 *
 * Entries are matched by token ids. A state of a transformer can go back to any earlier position (a recent one if it has windows),
 * a recurrent one stands where it was kept: at the end of a prompt, at the end of an answer, and where two prompts parted. */
#ifndef SERVER_PREFIX_CACHE_H
#define SERVER_PREFIX_CACHE_H

#include <stdbool.h>

#include "sparkhawk.h"

typedef struct prefix_cache prefix_cache;

typedef struct cache_options {
    uint64_t context;    /* of sessions; 0: the model's */
    uint64_t bytes;      /* of memory, 0: nothing is kept; the least recently used go first */
    const char *dir;     /* NULL: memory alone; else entries are files there too, and come back after a restart */
    uint64_t disk_bytes; /* of files */
    const char *arithmetic; /* whatever a state's bits depend on besides the model: files of another are let alone */
} cache_options;

typedef struct cache_counts {
    uint64_t entries, bytes, files, file_bytes;
} cache_counts;

/* The caller frees it, before the model. A directory that cannot be used is an error; files in it that are no such entries, or are
 * another model's, are let alone. */
shk_status cache_new(prefix_cache **out, shk_model *m, const cache_options *o, shk_error *err);
void cache_free(prefix_cache *c); /* waits for files that are being written; NULL is allowed */

/* A session, the caller's, that has consumed as many of ids [n] as some entry allows, but not the last; NULL: none. *shared: how
 * many of them some entry begins with, though its state may not be there. */
shk_session *cache_find(prefix_cache *c, const int32_t *ids, size_t n, size_t *shared);
/* Keeps s, which has consumed ids, and takes it over. */
void cache_put(prefix_cache *c, shk_session *s, const int32_t *ids);
/* Whether cache_put would keep the state of s, so that a copy is worth making. */
bool cache_wants(const prefix_cache *c, const shk_session *s);
/* Any thread may ask. */
cache_counts cache_count(prefix_cache *c);

#endif
