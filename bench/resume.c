/* States of long texts for bench/serve_resume.py:   resume MODEL DIR N...
 * Writes, as `sparkhawk serve --cache-dir DIR` would, what MODEL remembers of N tokens (2, 3, 4, ... over the vocabulary): numbers
 * as random as shk_session_simulate makes them, since reading a million tokens would take the better part of an hour. */
#include <stdio.h>
#include <stdlib.h>

#include "server/cache_files.h"

static void found(void *user, cache_file *file, int32_t *ids, size_t n, size_t earliest) {
    (void)user, (void)file, (void)n, (void)earliest;
    free(ids);
}

static shk_status write_states(shk_model *m, cache_files *f, char **depths, shk_error *err) {
    int32_t vocab = shk_model_vocab_size(m);
    for (; *depths; depths++) {
        size_t n = strtoull(*depths, NULL, 10);
        int32_t *ids = malloc(n * sizeof *ids + 1);
        shk_session *s = NULL;
        shk_status st = shk_session_new(&s, m, 0, err);
        if (!st) st = shk_session_simulate(s, n, n, err);
        for (size_t i = 0; ids && i < n; i++) ids[i] = 2 + (int32_t)(i % (size_t)(vocab - 2));
        if (!st && ids) cache_file_write(f, s, ids, n, true);
        shk_session_free(s);
        free(ids);
        if (st) return st;
    }
    return SHK_OK;
}

int main(int argc, char **argv) {
    shk_error err = { 0 };
    shk_model *m = NULL;
    cache_files *f = NULL;
    char build[64] = "", arithmetic[128];
    if (argc < 4) return fprintf(stderr, "usage: resume MODEL DIR N...\n"), 2;
    cache_options o = { .dir = argv[2], .disk_bytes = (uint64_t)1 << 40, .arithmetic = arithmetic };
    shk_status st = shk_build_info(build, sizeof build, &err);
    snprintf(arithmetic, sizeof arithmetic, "%s, cpu", build); /* as serve says it */
    if (!st) st = shk_model_load(&m, argv[1], NULL, &err);
    if (!st) st = cache_files_open(&f, m, &o, found, NULL, &err);
    if (!st) st = write_states(m, f, argv + 3, &err);
    if (st) fprintf(stderr, "%s\n", err.message);
    cache_files_close(f);
    shk_model_free(m);
    return st != SHK_OK;
}
