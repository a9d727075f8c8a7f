/* Files for a test: a directory of this program's own, removed when it ends. Include before any system header. */
#ifndef SHK_SCRATCH_H
#define SHK_SCRATCH_H

#define _GNU_SOURCE
#include <dirent.h>
#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../test.h"

static char scratch_dir[] = "/tmp/sparkhawk-test-XXXXXX";

static int scratch_remove(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static pid_t scratch_owner;

static void scratch_clean(void) {
    if (getpid() == scratch_owner) nftw(scratch_dir, scratch_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* The path of `name` in the directory; good for the next seven calls. */
static const char *scratch(const char *name) {
    static char paths[8][PATH_MAX];
    static unsigned next;
    if (!scratch_owner) {
        NEED(mkdtemp(scratch_dir), "a temporary directory is needed");
        scratch_owner = getpid();
        atexit(scratch_clean);
    }
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_dir, name);
    return path;
}

static inline const char *scratch_file(const char *name, const void *data, size_t n) {
    const char *path = scratch(name);
    FILE *f = fopen(path, "wb");
    NEED(f && fwrite(data, 1, n, f) == n && fclose(f) == 0, "%s cannot be written", path);
    return path;
}

/* How many entries a directory has. */
static inline int count_entries(const char *path) {
    DIR *dir = opendir(path);
    int n = 0;
    if (!dir) NEED(dir, "%s cannot be read", path);
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 2; /* . and .. */
}

#endif
