#include "file/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem.h"

enum { BUFFER = 1 << 18, MAX_LINKS = 40, MAX_TRIES = 1000, SELF = 32 };

struct shk_writer {
    char *path;      /* as the caller said it: for messages */
    char *target;    /* what will be replaced: path with symbolic links followed */
    char *temporary; /* in the target's directory; NULL: the file has no name yet */
    int fd;
    int failure; /* the errno of the first call that failed */
    uint64_t offset; /* bytes put so far */
    size_t n;        /* of them still in buffer */
    uint8_t buffer[BUFFER];
};

static size_t directory_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

/* `name` in the directory of `path`; malloc'd, NULL without memory. */
static char *beside(const char *path, const char *name) {
    shk_buffer joined = { 0 };
    if (!shk_buffer_append(&joined, path, directory_length(path)) || !shk_buffer_append(&joined, name, strlen(name)))
        shk_buffer_free(&joined);
    return joined.data;
}

/* The name behind a chain of symbolic links, which need not exist; malloc'd, NULL with errno set. Renaming over a link would
 * replace the link, where writing to it goes through. */
static char *follow_links(const char *path) {
    char link[PATH_MAX];
    char *at = shk_strdup(path);
    for (int links = 0; at; links++) {
        ssize_t n = readlink(at, link, sizeof link - 1);
        if (n < 0) break; /* no link: this is it */
        link[n] = 0;
        char *next = NULL;
        if (links == MAX_LINKS) errno = ELOOP;
        else next = link[0] == '/' ? shk_strdup(link) : beside(at, link);
        free(at);
        at = next;
    }
    return at;
}

static const char *self_path(const shk_writer *w, char self[SELF]) {
    snprintf(self, SELF, "/proc/self/fd/%d", w->fd);
    return self;
}

/* A name in the target's directory, independent of the target's, which may be as long as names can be: for the file that has
 * none, or of a new one. */
static bool give_name(shk_writer *w) {
    for (unsigned i = 0; i < MAX_TRIES; i++) {
        char name[64], self[SELF];
        snprintf(name, sizeof name, ".sparkhawk-%ld-%u.tmp", (long)getpid(), i);
        char *path = beside(w->target, name);
        if (!path) return false;
        bool nameless = w->fd >= 0;
        if (!nameless) w->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (nameless ? !linkat(AT_FDCWD, self_path(w, self), AT_FDCWD, path, AT_SYMLINK_FOLLOW) : w->fd >= 0) {
            w->temporary = path;
            return true;
        }
        free(path);
        if (errno != EEXIST) return false;
    }
    return false;
}

/* Where the file system and /proc allow it, a file without a name: whatever ends the process, nothing is left of it. */
static bool create_temporary(shk_writer *w) {
    char self[SELF], *directory = beside(w->target, ".");
    w->fd = directory ? open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666) : -1;
    free(directory);
    if (w->fd >= 0 && access(self_path(w, self), F_OK) == 0) return true;
    if (w->fd >= 0) close(w->fd);
    w->fd = -1;
    return give_name(w);
}

shk_status shk_writer_open(shk_writer **out, const char *path, shk_error *err) {
    shk_status status = SHK_OK;
    struct stat old;
    *out = NULL;
    shk_writer *w = shk_calloc(1, sizeof *w);
    if (!w) return shk_fail(err, SHK_E_MEMORY, "%s: out of memory", path);
    w->fd = -1;
    w->path = shk_strdup(path);
    w->target = follow_links(path);
    if (!w->path || !w->target) {
        status = shk_fail_errno(err, "%s", path);
        goto done;
    }
    bool exists = stat(w->target, &old) == 0;
    if (exists && !S_ISREG(old.st_mode)) {
        status = shk_fail(err, SHK_E_IO, "%s: %s", path, S_ISDIR(old.st_mode) ? "is a directory" : "is not a regular file");
        goto done;
    }
    if (w->target[directory_length(w->target)] == 0) {
        status = shk_fail(err, SHK_E_IO, "\"%s\": names no file", path);
        goto done;
    }
    if (!create_temporary(w)) {
        status = shk_fail_errno(err, "%s: no file can be created in its directory", path);
        goto done;
    }
    if (exists) fchmod(w->fd, old.st_mode & 0777); /* what is replaced keeps its permissions, as if it were written to */
    *out = w;
    w = NULL;
done:
    shk_writer_abandon(w);
    return status;
}

static void write_out(shk_writer *w, const uint8_t *data, size_t n) {
    while (n && !w->failure) {
        ssize_t done = write(w->fd, data, n);
        if (done >= 0) data += done, n -= (size_t)done;
        else if (errno != EINTR) w->failure = errno;
    }
}

static void flush(shk_writer *w) {
    write_out(w, w->buffer, w->n);
    w->n = 0;
}

void shk_writer_put(shk_writer *w, const void *data, size_t n) {
    w->offset += n;
    if (w->failure || n == 0) return;
    if (n > BUFFER - w->n) flush(w);
    if (n > BUFFER) {
        write_out(w, data, n);
    } else {
        memcpy(w->buffer + w->n, data, n);
        w->n += n;
    }
}

void shk_writer_pad(shk_writer *w, size_t alignment) {
    static const uint8_t zeros[64];
    while (w->offset % alignment) {
        size_t n = alignment - (size_t)(w->offset % alignment);
        shk_writer_put(w, zeros, n < sizeof zeros ? n : sizeof zeros);
    }
}

uint64_t shk_writer_offset(const shk_writer *w) { return w->offset; }

/* So that the new name survives a loss of power. Nothing can be taken back at this point: best effort. */
static void sync_directory(const char *path) {
    char *dir = beside(path, ".");
    int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(dir);
}

shk_status shk_writer_commit(shk_writer *w, shk_error *err) {
    shk_status status = SHK_OK;
    flush(w);
    if (!w->failure && (fsync(w->fd) || (!w->temporary && !give_name(w)))) w->failure = errno;
    if (close(w->fd) && !w->failure) w->failure = errno; /* network file systems report a full disk here */
    w->fd = -1;
    if (!w->failure && rename(w->temporary, w->target)) w->failure = errno;
    if (w->failure) {
        errno = w->failure;
        status = shk_fail_errno(err, "%s: cannot be written", w->path);
    } else {
        sync_directory(w->target);
        free(w->temporary);
        w->temporary = NULL;
    }
    shk_writer_abandon(w);
    return status;
}

void shk_writer_abandon(shk_writer *w) {
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->temporary) unlink(w->temporary);
    free(w->temporary);
    free(w->target);
    free(w->path);
    free(w);
}

shk_status shk_write_file(const char *path, const void *data, size_t n, shk_error *err) {
    shk_writer *w;
    shk_status status = shk_writer_open(&w, path, err);
    if (status) return status;
    shk_writer_put(w, data, n);
    return shk_writer_commit(w, err);
}
