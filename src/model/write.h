/* A model as a file: what `convert` and `init` share. */
#ifndef SHK_MODEL_WRITE_H
#define SHK_MODEL_WRITE_H

#include "model/weights.h"

/* Where the values come from. */
typedef struct shk_source {
    void *user;
    /* Rows [row, row + n) of a matrix slot as f32, of its transpose if so asked; row a multiple of 256, out [n, cols]. */
    void (*rows)(void *user, const shk_slot *s, int layer, int index, bool transposed, size_t row, size_t n, float *out);
    /* A vector slot as it stands in a file: out [n]. `gguf`: norms with the 1 added. */
    void (*vector)(void *user, const shk_slot *s, int layer, bool gguf, size_t n, float *out);
    /* The matrix itself, to be copied if type and layout fit; or NULL. Same arguments as rows. */
    const shk_mat *(*stored)(void *user, const shk_slot *s, int layer, int index, bool transposed);
    /* The type that the slot has, for a target that keeps it. */
    shk_type (*type)(void *user, const shk_slot *s, int layer);
    /* Makes a GGUF file's metadata, or writes files beside a directory's safetensors. */
    bool (*gguf_meta)(void *user, shk_gguf_meta *m); /* false: no memory */
    shk_status (*directory)(void *user, const char *dir, shk_error *err);
} shk_source;

/* Writes `out` (NAME.gguf or a directory, which is made if need be): see shk_convert. */
shk_status shk_model_write(const shk_config *c, const shk_source *source, const char *out, const shk_convert_options *options,
                           shk_error *err);

#endif
