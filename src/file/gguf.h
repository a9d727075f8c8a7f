/* GGUF version 3: metadata and tensors in one mappable file. Values are little-endian. */
#ifndef SHK_FILE_GGUF_H
#define SHK_FILE_GGUF_H

#include "file/safetensors.h"
#include "file/tensors.h"

typedef enum shk_meta_type {
    SHK_META_U8, SHK_META_I8, SHK_META_U16, SHK_META_I16, SHK_META_U32, SHK_META_I32, SHK_META_F32, SHK_META_BOOL,
    SHK_META_STRING, SHK_META_ARRAY, SHK_META_U64, SHK_META_I64, SHK_META_F64
} shk_meta_type;

typedef struct shk_str { /* bytes in the mapped file: not terminated */
    const char *data;
    size_t n;
} shk_str;

typedef struct shk_meta {
    const char *key; /* terminated, owned by the file object */
    shk_meta_type type;
    shk_meta_type elem;  /* of an array (never an array itself: nested arrays are refused) */
    uint64_t n;          /* elements of an array */
    const uint8_t *data; /* the value as stored, checked to lie inside the file (each string of an array too) */
    size_t n_bytes;      /* of data */
} shk_meta;

typedef struct shk_gguf {
    shk_tensors tensors;
    shk_meta *meta; /* [n_meta], unique keys */
    size_t n_meta;
    char *path;
} shk_gguf;

/* Every count, length, offset, alignment and type is checked. Versions 2 and 3; a big-endian file says so. */
shk_status shk_gguf_open(shk_gguf *out, const char *path, shk_error *err);
/* The same for bytes in memory, which must outlive *out; `path` is what messages call them. */
shk_status shk_gguf_parse(shk_gguf *out, const char *path, const void *data, size_t size, shk_error *err);
void shk_gguf_free(shk_gguf *g); /* a zeroed one is allowed */
bool shk_gguf_probe(const char *path); /* does the file start with the magic */

const shk_meta *shk_gguf_find(const shk_gguf *g, const char *key); /* NULL if absent */

/* Scalar of any integer or bool type as int64, any number as double, string as bytes. false: absent or of another type (or a
 * u64 that does not fit). */
bool shk_meta_int(const shk_meta *m, int64_t *out);
bool shk_meta_real(const shk_meta *m, double *out);
bool shk_meta_str(const shk_meta *m, shk_str *out);
/* Element i of an array; the same conversions. i must be < m->n. */
bool shk_meta_int_at(const shk_meta *m, uint64_t i, int64_t *out);
bool shk_meta_real_at(const shk_meta *m, uint64_t i, double *out);
/* Strings of an array have no fixed place: walk them. *at starts as m->data. */
shk_str shk_meta_next_str(const uint8_t **at);

/* Building metadata for a new file. Each call copies; a key that was put before is replaced in its place. Lack of memory sticks
 * and is reported by shk_gguf_write. */
typedef struct shk_gguf_meta shk_gguf_meta;
shk_gguf_meta *shk_gguf_meta_new(void);
void shk_gguf_meta_free(shk_gguf_meta *m); /* NULL is allowed */
void shk_gguf_put_u32(shk_gguf_meta *m, const char *key, uint32_t v);
void shk_gguf_put_f32(shk_gguf_meta *m, const char *key, float v);
void shk_gguf_put_bool(shk_gguf_meta *m, const char *key, bool v);
void shk_gguf_put_str(shk_gguf_meta *m, const char *key, const char *v);
void shk_gguf_put_strs(shk_gguf_meta *m, const char *key, const shk_str *v, size_t n);
void shk_gguf_put_f32s(shk_gguf_meta *m, const char *key, const float *v, size_t n);
void shk_gguf_put_i32s(shk_gguf_meta *m, const char *key, const int32_t *v, size_t n);
void shk_gguf_put_bools(shk_gguf_meta *m, const char *key, const bool *v, size_t n);
void shk_gguf_put_copy(shk_gguf_meta *m, const shk_meta *from); /* as it stands in another file; general.alignment is left out */

/* Writes version 3, alignment 32, through shk_writer; `fill` as in safetensors.h. */
shk_status shk_gguf_write(const char *path, const shk_gguf_meta *meta, const shk_tensor *items, size_t n, shk_fill_fn *fill,
                          void *user, shk_error *err);

#endif
