/* The frame that the writers of tensor files share: a header, then each tensor at a multiple of the alignment. */
#ifndef SHK_FILE_EMIT_H
#define SHK_FILE_EMIT_H

#include "file/safetensors.h"
#include "file/writer.h"

typedef struct shk_emit_format {
    /* Writes all that stands before the tensors, given their checked names and sizes. */
    shk_status (*put_header)(const void *user, const shk_tensors *table, shk_writer *w, shk_error *err);
    const void *user;
    size_t alignment;
} shk_emit_format;

/* items, n, fill and user as in safetensors.h. Items that shk_tensors_add refuses and a fill that writes another number of bytes
 * than its tensor has are errors. */
shk_status shk_emit(const char *path, const shk_tensor *items, size_t n, const shk_emit_format *format, shk_fill_fn *fill,
                    void *user, shk_error *err);

#endif
