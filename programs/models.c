#include "models.h"

#include <unistd.h>

char *model_path(const model_args *a) {
    const char *given = a->path ? a->path : getenv("SPARKHAWK_MODEL"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given && *given) return needed(strdup(given));
    if (a->path) return fail("--model: an empty name"), NULL;
    bool set = cache && *cache;
    char *path = formatted("%s%s/sparkhawk/gemma3-270m-q4_k_m.gguf", set ? cache : home ? home : "", set ? "" : "/.cache");
    if (access(path, F_OK) == 0) return path;
    fail("no model: name one with -m or SPARKHAWK_MODEL, or fetch one with 'make run', which puts it at %s", path);
    free(path);
    return NULL;
}

shk_model_params model_params(const model_args *a) {
    bool gpu = a->device && !strcmp(a->device, "cuda");
    return (shk_model_params){ .window_extra = (int)a->window_extra, .dense = a->dense, .exact = a->exact, .kv_type = a->kv_type,
                               .device = gpu ? SHK_DEVICE_CUDA : SHK_DEVICE_CPU };
}

shk_model *model_open(const model_args *a) {
    shk_model_params params = model_params(a);
    params.threads = (int)a->threads;
    char *path = model_path(a);
    shk_model *m = NULL;
    shk_error err;
    if (path && shk_model_load(&m, path, &params, &err)) fail("%s", err.message), m = NULL;
    free(path);
    return m;
}
