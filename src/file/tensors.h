/* A table of named tensors inside mapped files: what the safetensors and GGUF readers give. */
#ifndef SHK_FILE_TENSORS_H
#define SHK_FILE_TENSORS_H

#include "file/types.h"
#include "mem.h"

enum { SHK_MAX_DIMS = 4 };

typedef struct shk_tensor {
    const char *name; /* owned by the table */
    shk_type type;
    unsigned n_dims;             /* 0 to 4; a scalar has 0 and one value */
    uint64_t shape[SHK_MAX_DIMS]; /* outermost first, as PyTorch prints it (GGUF stores the reverse); 1 past n_dims */
    size_t n_elem;
    const void *data; /* in the mapped file, any alignment; readers have checked that n_bytes lie inside it */
    size_t n_bytes;
} shk_tensor;

typedef struct shk_tensors {
    shk_tensor *items; /* in file order */
    size_t n;
    uint32_t *buckets; /* hash table over the names; private to tensors.c */
    size_t n_buckets;
    shk_map *maps; /* the files behind it */
    size_t n_maps;
    char *path; /* for messages */
} shk_tensors;

/* NULL if there is none of that name. */
const shk_tensor *shk_tensors_find(const shk_tensors *t, const char *name);
void shk_tensors_free(shk_tensors *t); /* unmaps; zeroes *t; a zeroed one is allowed */

/* ---- for readers and writers of files ---- */

/* Appends a copy, its name copied too and n_elem and n_bytes computed. Refused: a second tensor of one name, a name that is not
 * shk_name_valid, a shape that shk_tensor_measure refuses. Messages start with t->path. */
shk_status shk_tensors_add(shk_tensors *t, const shk_tensor *tensor, shk_error *err);

/* Whether the n bytes are a name for a tensor or a key: not empty, no control characters. */
bool shk_name_valid(const char *name, size_t n);

/* Sets n_elem and n_bytes from type and shape. false, with t untouched: they overflow, or the innermost dimension is no
 * multiple of the type's block. */
bool shk_tensor_measure(shk_tensor *t);

/* Fails if two tensors share a byte. */
shk_status shk_tensors_check_overlap(const shk_tensors *t, shk_error *err);

/* Moves a mapping into the table, which will close it. false, with *map untouched: no memory. */
bool shk_tensors_own(shk_tensors *t, shk_map *map);

/* "[3, 4]" for messages, into buf, always terminated; returns buf. */
const char *shk_shape_string(char *buf, size_t size, const uint64_t *shape, unsigned n_dims);

#endif
