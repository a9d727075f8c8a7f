/* A fuzz target is a file NAME.c here that includes this header and defines accepts(): whether the bytes are a well-formed
 * input. Whatever they are, it must neither crash, hang, leak nor use much memory.
 *
 *   plain:   a test program. It replays corpus/NAME/ (any verdict) and refused/NAME/ (must not be accepted).
 *   FUZZ=1:  a libFuzzer program, which looks for inputs that break accepts(). */
#ifndef SHK_FUZZ_H
#define SHK_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static bool accepts(const uint8_t *data, size_t n);

#ifdef FUZZ

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    accepts(data, n);
    return 0;
}

#else

#include <dirent.h>
#include <limits.h>

#include "../test.h"

/* In memory of exactly its size, so that a sanitizer sees a read past the end. */
static uint8_t *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    NEED(f && !fseek(f, 0, SEEK_END), "%s cannot be read", path);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = malloc(*n ? *n : 1);
    NEED(data && fread(data, 1, *n, f) == *n, "%s cannot be read", path);
    fclose(f);
    return data;
}

static void replay(const char *kind, const char *name, bool refused) {
    char folder[PATH_MAX / 2], path[PATH_MAX];
    snprintf(folder, sizeof folder, "tests/fuzz/%s/%s", kind, name);
    DIR *dir = opendir(folder);
    for (const struct dirent *e; dir && (e = readdir(dir));) {
        if (*e->d_name == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        size_t n;
        uint8_t *data = read_file(path, &n);
        bool accepted = accepts(data, n);
        CHECK(!refused || !accepted, "%s was accepted", path);
        free(data);
    }
    if (dir) closedir(dir);
}

int main(int argc, char **argv) {
    (void)argc;
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    replay("corpus", name, false);
    replay("refused", name, true);
    return test_done();
}

#endif
#endif
