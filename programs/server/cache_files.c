#include "server/cache_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "file/writer.h"
#include "mem.h"

enum { MAX_PENDING = 8, MAX_IDS = 1 << 28 };
static const char magic[8] = "SHKIDS1";

struct cache_file {
    cache_file *next;
    uint64_t hash, bytes, used;
    bool held;          /* somebody has the handle */
    bool ready, gone;   /* both files are there; they are not, and will not be */
    shk_session *state; /* to be written */
    int32_t *ids;
    size_t n;
};

struct cache_files {
    shk_model *m;
    char *dir;
    uint64_t context, most, clock, fingerprint;
    pthread_t thread;
    bool running;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    cache_file *first;
    size_t n_pending;
    bool closing;
};

typedef struct ids_header {
    char magic[8];
    uint64_t fingerprint, n, earliest, sum;
} ids_header;

static uint64_t mix(uint64_t h, const void *data, size_t n) { /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return h;
}

static uint64_t hash_of(const int32_t *ids, size_t n) { return mix(14695981039346656037u, ids, n * sizeof *ids); }

static char *path_of(const cache_files *f, uint64_t hash, const char *suffix) {
    shk_buffer path = { 0 };
    shk_buffer_printf(&path, "%s/%016llx-%016llx.%s", f->dir, (unsigned long long)f->fingerprint, (unsigned long long)hash, suffix);
    return path.data;
}

/* ---- the list; the lock is held ---- */

static void delete_files(const cache_files *f, cache_file *file) {
    static const char *const suffixes[] = { "ids", "state" };
    for (int i = 0; i < 2; i++) {
        char *path = path_of(f, file->hash, suffixes[i]);
        if (path) unlink(path);
        free(path);
    }
    file->ready = false;
    file->gone = true;
    file->bytes = 0;
}

/* Frees those that are of no use any more. */
static void sweep(cache_files *f) {
    for (cache_file **at = &f->first; *at;) {
        cache_file *file = *at;
        if (!file->gone || file->held || file->state) {
            at = &file->next;
            continue;
        }
        *at = file->next;
        free(file->ids);
        free(file);
    }
}

static void keep_within(cache_files *f) {
    for (;;) {
        uint64_t total = 0;
        cache_file *oldest = NULL;
        for (cache_file *i = f->first; i; i = i->next) {
            total += i->bytes;
            if (i->ready && (!oldest || i->used < oldest->used)) oldest = i;
        }
        if (total <= f->most || !oldest) break;
        delete_files(f, oldest);
    }
    sweep(f);
}

uint64_t cache_files_bytes(cache_files *f, uint64_t *n) {
    uint64_t total = 0;
    *n = 0;
    pthread_mutex_lock(&f->lock);
    for (cache_file *i = f->first; i; i = i->next) total += i->bytes, *n += i->ready;
    pthread_mutex_unlock(&f->lock);
    return total;
}

/* ---- writing ---- */

static uint64_t size_of(const char *path) {
    struct stat s;
    return stat(path, &s) ? 0 : (uint64_t)s.st_size;
}

/* The bytes of both files; 0: they could not be written. */
static uint64_t write_files(const cache_files *f, const cache_file *file) {
    ids_header h = { .fingerprint = f->fingerprint, .n = file->n, .earliest = shk_session_earliest(file->state),
                     .sum = file->hash };
    memcpy(h.magic, magic, sizeof magic);
    char *ids = path_of(f, file->hash, "ids"), *state = path_of(f, file->hash, "state");
    uint64_t bytes = 0;
    shk_writer *w;
    if (ids && state && !shk_session_save(file->state, state, NULL) && !shk_writer_open(&w, ids, NULL)) {
        shk_writer_put(w, &h, sizeof h);
        shk_writer_put(w, file->ids, file->n * sizeof *file->ids);
        if (!shk_writer_commit(w, NULL)) bytes = size_of(ids) + size_of(state);
    }
    free(ids);
    free(state);
    return bytes;
}

static void *write_pending(void *p) {
    cache_files *f = p;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        cache_file *file = f->first;
        while (file && !file->state) file = file->next;
        if (!file && f->closing) break;
        if (!file) {
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        pthread_mutex_unlock(&f->lock);
        uint64_t bytes = write_files(f, file);
        shk_session_free(file->state);
        free(file->ids);
        pthread_mutex_lock(&f->lock);
        file->state = NULL;
        file->ids = NULL;
        file->bytes = bytes;
        f->n_pending--;
        if (!bytes || file->gone) delete_files(f, file);
        else file->ready = true;
        keep_within(f);
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

cache_file *cache_file_write(cache_files *f, const shk_session *s, const int32_t *ids, size_t n, bool wait) {
    cache_file *file = shk_calloc(1, sizeof *file);
    if (!file) return NULL;
    *file = (cache_file){ .hash = hash_of(ids, n), .held = true, .n = n };
    pthread_mutex_lock(&f->lock);
    while (wait && f->n_pending >= MAX_PENDING) pthread_cond_wait(&f->changed, &f->lock);
    bool room = f->n_pending < MAX_PENDING;
    for (const cache_file *i = f->first; i; i = i->next) room &= i->hash != file->hash || (i->gone && !i->state);
    f->n_pending += room;
    pthread_mutex_unlock(&f->lock);
    if (room) file->ids = shk_memdup(ids, n * sizeof *ids);
    bool copied = room && file->ids && !shk_session_fork(&file->state, s, NULL);
    pthread_mutex_lock(&f->lock);
    if (copied) {
        file->used = ++f->clock;
        file->next = f->first;
        f->first = file;
        pthread_cond_broadcast(&f->changed);
    } else {
        f->n_pending -= room;
    }
    pthread_mutex_unlock(&f->lock);
    if (copied) return file;
    free(file->ids);
    free(file);
    return NULL;
}

/* ---- handles ---- */

bool cache_file_ready(cache_files *f, const cache_file *file) {
    pthread_mutex_lock(&f->lock);
    bool ready = file->ready;
    pthread_mutex_unlock(&f->lock);
    return ready;
}

shk_session *cache_file_load(cache_files *f, const cache_file *file) {
    shk_session *s = NULL;
    char *path = cache_file_ready(f, file) ? path_of(f, file->hash, "state") : NULL;
    if (path && !shk_session_new(&s, f->m, f->context, NULL) && shk_session_restore(s, path, NULL)) shk_session_free(s), s = NULL;
    free(path);
    return s;
}

void cache_file_touch(cache_files *f, cache_file *file) {
    char *path = path_of(f, file->hash, "ids");
    if (path) utimensat(AT_FDCWD, path, NULL, 0); /* the next run goes by it */
    free(path);
    pthread_mutex_lock(&f->lock);
    file->used = ++f->clock;
    pthread_mutex_unlock(&f->lock);
}

static void give_back(cache_files *f, cache_file *file, bool delete) {
    pthread_mutex_lock(&f->lock);
    file->held = false;
    if (delete && file->state) file->gone = true; /* the thread deletes what it is writing */
    else if (delete) delete_files(f, file);
    sweep(f);
    pthread_mutex_unlock(&f->lock);
}

void cache_file_release(cache_files *f, cache_file *file) { give_back(f, file, false); }
void cache_file_forget(cache_files *f, cache_file *file) { give_back(f, file, true); }

/* ---- opening ---- */

/* A file from an earlier run. */
typedef struct known {
    uint64_t hash;
    struct timespec used;
} known;

static int by_use(const void *a, const void *b) {
    const known *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec) return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return (x->used.tv_nsec > y->used.tv_nsec) - (x->used.tv_nsec < y->used.tv_nsec);
}

/* Whether nobody will come back for a file: a temporary one of a process that is no more, or a state of any model that has had no
 * ids for a while (they are written right after it, perhaps by another server now). */
static bool left_over(int dir, const char *name) {
    enum { A_WHILE = 60 };
    struct stat s;
    long pid;
    char ids[64];
    int end = 0;
    if (sscanf(name, ".sparkhawk-%ld-%*u.tmp%n", &pid, &end) == 1 && end && !name[end])
        return pid == getpid() || (pid > 0 && kill((pid_t)pid, 0) && errno == ESRCH); /* in a container, ids come again */
    if (sscanf(name, "%*16[0-9a-f]-%*16[0-9a-f].state%n", &end) || end != 39 || name[end]) return false;
    snprintf(ids, sizeof ids, "%.33s.ids", name);
    return fstatat(dir, ids, &s, AT_SYMLINK_NOFOLLOW) && errno == ENOENT && !fstatat(dir, name, &s, AT_SYMLINK_NOFOLLOW) &&
           time(NULL) - s.st_mtime > A_WHILE;
}

static void delete_leftovers(const cache_files *f) {
    DIR *dir = opendir(f->dir);
    for (const struct dirent *e; dir && (e = readdir(dir));)
        if (left_over(dirfd(dir), e->d_name)) unlinkat(dirfd(dir), e->d_name, 0);
    if (dir) closedir(dir);
}

/* The .ids files of this model; *list malloc'd. */
static size_t look(const cache_files *f, known **list) {
    DIR *dir = opendir(f->dir);
    size_t n = 0, room = 0;
    *list = NULL;
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        unsigned long long fingerprint, hash;
        int end = 0;
        struct stat s;
        if (sscanf(e->d_name, "%16llx-%16llx.ids%n", &fingerprint, &hash, &end) != 2 || end != 37 || e->d_name[end]) continue;
        if (fingerprint != f->fingerprint || fstatat(dirfd(dir), e->d_name, &s, AT_SYMLINK_NOFOLLOW) || !S_ISREG(s.st_mode))
            continue;
        if (n == room) {
            known *grown = shk_realloc(*list, room = 2 * room + 64, sizeof *grown);
            if (!grown) break;
            *list = grown;
        }
        (*list)[n++] = (known){ hash, s.st_mtim };
    }
    if (dir) closedir(dir);
    if (n) qsort(*list, n, sizeof **list, by_use);
    return n;
}

/* The ids of a file, malloc'd, if it is sound. */
static int32_t *read_ids(const cache_files *f, uint64_t hash, size_t *n, size_t *earliest, uint64_t *bytes) {
    shk_map map = { 0 };
    ids_header h;
    int32_t *ids = NULL;
    char *path = path_of(f, hash, "ids"), *state = path_of(f, hash, "state");
    if (!path || !state || shk_map_open(&map, path, NULL) || map.size < sizeof h) goto done;
    memcpy(&h, map.data, sizeof h);
    *bytes = map.size + size_of(state);
    if (memcmp(h.magic, magic, sizeof magic) || h.fingerprint != f->fingerprint || !h.n || h.n > MAX_IDS || h.earliest > h.n ||
        map.size != sizeof h + h.n * sizeof *ids || !size_of(state))
        goto done;
    *n = (size_t)h.n;
    *earliest = (size_t)h.earliest;
    ids = shk_memdup(map.data + sizeof h, *n * sizeof *ids);
    if (ids && (h.sum != hash || hash_of(ids, *n) != hash)) free(ids), ids = NULL;
done:
    shk_map_close(&map);
    free(path);
    free(state);
    return ids;
}

static void find_files(cache_files *f, cache_found_fn *found, void *user) {
    known *list;
    size_t n_list = look(f, &list), n, earliest;
    for (size_t i = 0; i < n_list; i++) {
        cache_file *file = shk_calloc(1, sizeof *file);
        int32_t *ids = file ? read_ids(f, list[i].hash, &n, &earliest, &file->bytes) : NULL;
        if (!ids) {
            if (file) file->hash = list[i].hash, delete_files(f, file);
            free(file);
            continue;
        }
        file->hash = list[i].hash;
        file->used = ++f->clock;
        file->held = file->ready = true;
        file->next = f->first;
        f->first = file;
        found(user, file, ids, n, earliest);
    }
    free(list);
    keep_within(f);
}

shk_status cache_files_open(cache_files **out, shk_model *m, const cache_options *o, cache_found_fn *found, void *user,
                            shk_error *err) {
    const char *dir = o->dir;
    struct stat s;
    if (mkdir(dir, 0700) && errno != EEXIST) return shk_fail_errno(err, "%s", dir);
    if (stat(dir, &s)) return shk_fail_errno(err, "%s", dir);
    if (!S_ISDIR(s.st_mode)) return shk_fail(err, SHK_E_IO, "%s: not a directory", dir);
    if (s.st_mode & (S_IRWXG | S_IRWXO))
        return shk_fail(err, SHK_E_IO, "%s: others can look into it, and it would hold conversations: chmod 700", dir);
    if (access(dir, R_OK | W_OK | X_OK)) return shk_fail_errno(err, "%s", dir);
    cache_files *f = *out = shk_calloc(1, sizeof *f);
    if (!f) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", dir);
    f->m = m;
    f->context = o->context;
    f->most = o->disk_bytes;
    f->fingerprint = mix(shk_model_fingerprint(m), o->arithmetic, strlen(o->arithmetic));
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    if (!(f->dir = shk_strdup(dir))) return shk_fail(err, SHK_E_MEMORY, "%s: no memory", dir);
    delete_leftovers(f);
    find_files(f, found, user);
    f->running = !pthread_create(&f->thread, NULL, write_pending, f);
    return f->running ? SHK_OK : shk_fail(err, SHK_E_MEMORY, "%s: no thread to write it", dir);
}

void cache_files_close(cache_files *f) {
    if (!f) return;
    pthread_mutex_lock(&f->lock);
    f->closing = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    if (f->running) pthread_join(f->thread, NULL);
    for (cache_file *i = f->first, *next; i; i = next) {
        next = i->next;
        shk_session_free(i->state);
        free(i->ids);
        free(i);
    }
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f->dir);
    free(f);
}
