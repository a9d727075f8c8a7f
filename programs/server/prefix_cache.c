#include "server/prefix_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "mem.h"
#include "server/cache_files.h"

enum { MAX_ENTRIES = 4096 };

typedef struct entry {
    int32_t *ids; /* [n] what the session has consumed */
    size_t n;
    shk_session *session; /* NULL: in a file alone */
    size_t earliest;      /* that it can go back to */
    uint64_t bytes;       /* of memory */
    uint64_t used;        /* when, by the cache's clock */
    cache_file *file;     /* NULL: none */
} entry;

struct prefix_cache {
    shk_model *m;
    cache_options o;
    entry entries[MAX_ENTRIES]; /* [n] in no order */
    size_t n;
    uint64_t clock;
    cache_files *files; /* NULL: memory alone */
    pthread_mutex_t lock; /* of counts, which others read */
    cache_counts counts;
};

static void count(prefix_cache *c) {
    cache_counts now = { .entries = c->n };
    for (size_t i = 0; i < c->n; i++) now.bytes += c->entries[i].bytes;
    if (c->files) now.file_bytes = cache_files_bytes(c->files, &now.files);
    pthread_mutex_lock(&c->lock);
    c->counts = now;
    pthread_mutex_unlock(&c->lock);
}

cache_counts cache_count(prefix_cache *c) {
    pthread_mutex_lock(&c->lock);
    cache_counts now = c->counts;
    pthread_mutex_unlock(&c->lock);
    return now;
}

static uint64_t bytes_of(const entry *e) {
    return sizeof *e + e->n * sizeof *e->ids + (e->session ? shk_session_bytes(e->session) : 0);
}

static void drop(prefix_cache *c, size_t i) {
    entry *e = &c->entries[i];
    shk_session_free(e->session);
    if (e->file) cache_file_release(c->files, e->file);
    free(e->ids);
    *e = c->entries[--c->n];
}

/* Makes room for `bytes` and one more entry: what was used longest ago leaves memory, and the cache if it has no file. */
static void make_room(prefix_cache *c, uint64_t bytes) {
    for (;;) {
        size_t oldest = c->n, oldest_here = c->n;
        uint64_t total = bytes;
        for (size_t i = 0; i < c->n; i++) {
            const entry *e = &c->entries[i];
            total += e->bytes;
            if (oldest == c->n || e->used < c->entries[oldest].used) oldest = i;
            if (e->session && (oldest_here == c->n || e->used < c->entries[oldest_here].used)) oldest_here = i;
        }
        if (c->n == MAX_ENTRIES || (total > c->o.bytes && oldest_here == c->n && c->n)) {
            drop(c, oldest);
        } else if (total > c->o.bytes && c->n) {
            entry *e = &c->entries[oldest_here];
            if (!e->file || !cache_file_ready(c->files, e->file)) {
                drop(c, oldest_here);
                continue;
            }
            shk_session_free(e->session);
            e->session = NULL;
            e->bytes = bytes_of(e);
        } else return;
    }
}

static size_t common(const entry *e, const int32_t *ids, size_t n) {
    size_t most = e->n < n ? e->n : n, i = 0;
    while (i < most && e->ids[i] == ids[i]) i++;
    return i;
}

/* The latest position that the entry's session can stand at for a text that begins with `shared` of its tokens and has another one
 * behind `last`; 0: none that is worth a copy of it. */
static size_t reach(const entry *e, size_t shared, size_t last) {
    enum { WORTH = 16, SHARE = 64 }; /* tokens read cost as much as some hundreds copied */
    size_t at = shared < last ? shared : last;
    return at >= e->earliest && at >= WORTH && at >= e->n / SHARE ? at : 0;
}

/* Brings an entry that is in a file alone back to memory. false: the file is not what it was; the entry is gone. */
static bool load(prefix_cache *c, size_t i) {
    entry *e = &c->entries[i];
    shk_session *s = cache_file_load(c->files, e->file);
    if (!s || shk_session_position(s) != e->n || shk_session_earliest(s) > e->earliest) {
        shk_session_free(s);
        cache_file_forget(c->files, e->file);
        e->file = NULL;
        drop(c, i);
        return false;
    }
    e->session = s;
    e->bytes = bytes_of(e);
    return true;
}

shk_session *cache_find(prefix_cache *c, const int32_t *ids, size_t n, size_t *shared) {
    shk_session *copy = NULL;
    size_t best, at;
    do {
        best = c->n, at = 0, *shared = 0;
        for (size_t i = 0; i < c->n; i++) {
            size_t same = common(&c->entries[i], ids, n), here = reach(&c->entries[i], same, n - 1);
            if (same > *shared) *shared = same;
            if (here > at) best = i, at = here;
        }
        if (best == c->n) return NULL;
    } while (!c->entries[best].session && !load(c, best));
    entry *e = &c->entries[best];
    e->used = ++c->clock;
    if (e->file) cache_file_touch(c->files, e->file);
    if (shk_session_fork(&copy, e->session, NULL)) return NULL;
    if (shk_session_truncate(copy, at, NULL)) shk_session_free(copy), copy = NULL;
    make_room(c, 0); /* what came from a file takes memory now */
    count(c);
    return copy;
}

bool cache_wants(const prefix_cache *c, const shk_session *s) {
    return shk_session_position(s) > 0 && shk_session_bytes(s) + sizeof(entry) + shk_session_position(s) * 4 <= c->o.bytes;
}

/* Entries that another one of ids [n], whose session is s, makes useless: the same, or what s can go back to. true: the same is
 * there already. */
static bool supersede(prefix_cache *c, const shk_session *s, const int32_t *ids, size_t n) {
    for (size_t i = c->n; i-- > 0;) {
        entry *e = &c->entries[i];
        if (e->n > n || common(e, ids, n) < e->n) continue;
        if (e->n == n && e->session) {
            e->used = ++c->clock;
            return true;
        }
        if (e->n == n || e->n >= shk_session_earliest(s)) {
            if (e->file) cache_file_forget(c->files, e->file);
            e->file = NULL;
            drop(c, i);
        }
    }
    return false;
}

void cache_put(prefix_cache *c, shk_session *s, const int32_t *ids) {
    size_t n = (size_t)shk_session_position(s);
    if (!cache_wants(c, s) || supersede(c, s, ids, n)) {
        shk_session_free(s);
        return;
    }
    entry e = { .ids = shk_memdup(ids, n * sizeof *ids), .n = n, .session = s, .used = ++c->clock,
                .earliest = (size_t)shk_session_earliest(s) };
    if (!e.ids) {
        shk_session_free(s);
        return;
    }
    e.bytes = bytes_of(&e);
    make_room(c, e.bytes);
    if (c->files) e.file = cache_file_write(c->files, s, ids, n, false);
    c->entries[c->n++] = e;
    count(c);
}

/* An entry that a file of an earlier run holds. */
static void found(void *user, cache_file *file, int32_t *ids, size_t n, size_t earliest) {
    prefix_cache *c = user;
    if (c->n == MAX_ENTRIES) make_room(c, 0);
    entry e = { .ids = ids, .n = n, .used = ++c->clock, .file = file, .earliest = earliest };
    e.bytes = bytes_of(&e);
    c->entries[c->n++] = e;
}

shk_status cache_new(prefix_cache **out, shk_model *m, const cache_options *o, shk_error *err) {
    prefix_cache *c = shk_calloc(1, sizeof *c);
    *out = NULL;
    if (!c) return shk_fail(err, SHK_E_MEMORY, "no memory for the state cache");
    c->m = m;
    c->o = *o;
    pthread_mutex_init(&c->lock, NULL);
    shk_status st = o->dir && o->bytes ? cache_files_open(&c->files, m, o, found, c, err) : SHK_OK;
    if (st) {
        cache_free(c);
        return st;
    }
    make_room(c, 0);
    count(c);
    *out = c;
    return SHK_OK;
}

void cache_free(prefix_cache *c) {
    if (!c) return;
    for (size_t i = 0; c->files && i < c->n; i++) { /* what there was no time for */
        entry *e = &c->entries[i];
        if (!e->file && e->session) e->file = cache_file_write(c->files, e->session, e->ids, e->n, true);
    }
    while (c->n) drop(c, c->n - 1);
    cache_files_close(c->files);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
