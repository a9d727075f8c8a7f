/* Where the published model lies, if it does. */
#ifndef SHK_GEMMA3_FILE_H
#define SHK_GEMMA3_FILE_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* $SHK_GEMMA3, or where tools/fetch_model.py puts it; whether it can be read. */
static inline bool gemma3_file(char *path, size_t size) {
    const char *given = getenv("SHK_GEMMA3"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given && *given) snprintf(path, size, "%s", given);
    else if (cache && *cache) snprintf(path, size, "%s/sparkhawk/gemma3-270m-q4_k_m.gguf", cache);
    else snprintf(path, size, "%s/.cache/sparkhawk/gemma3-270m-q4_k_m.gguf", home ? home : "");
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

#endif
