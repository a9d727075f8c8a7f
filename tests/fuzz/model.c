#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sparkhawk.h"

#include "fuzz.h"

/* A whole model from a GGUF file: what loads must run, or say why not. */
static bool accepts(const uint8_t *data, size_t n) {
    static const int32_t tokens[] = { 1, 2, 3, 1, 2, 3, 1, 0, 5 };
    char path[64];
    int fd = memfd_create("model", 0);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    shk_model *m;
    shk_session *s;
    shk_model_params params = { .threads = 1 };
    bool ok = shk_model_load(&m, path, &params, NULL) == SHK_OK;
    close(fd);
    if (!ok) return false;
    if (shk_session_new(&s, m, 64, NULL) == SHK_OK) {
        float *logits = malloc((size_t)shk_model_vocab_size(m) * sizeof *logits);
        shk_advance(m, &(shk_span){ s, tokens, 9, logits, 0 }, 1, NULL);
        free(logits);
        shk_session_free(s);
    }
    shk_model_free(m);
    return true;
}
