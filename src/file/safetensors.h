/* safetensors: an 8-byte header length, a JSON header, tensor data. */
#ifndef SHK_FILE_SAFETENSORS_H
#define SHK_FILE_SAFETENSORS_H

#include "file/tensors.h"

/* One file. Every offset, shape and type in the header is checked: offsets inside the data, sizes that match the shapes, no
 * overlap. Types: F64 F32 F16 BF16 I64 I32 I16 I8 (others, such as BOOL, U8, F8: SHK_E_UNSUPPORTED, naming the tensor). */
shk_status shk_safetensors_open(shk_tensors *out, const char *path, shk_error *err);
/* The same for bytes in memory, which must outlive *out; `path` is what messages call them. */
shk_status shk_safetensors_parse(shk_tensors *out, const char *path, const void *data, size_t size, shk_error *err);

/* A directory: model.safetensors.index.json and the files that its weight_map names (plain names only, inside the directory;
 * each tensor must be in the file that the index says), else model.safetensors, else the one *.safetensors there is. */
shk_status shk_safetensors_open_dir(shk_tensors *out, const char *dir, shk_error *err);

/* Writes one file, through a temporary name, synced, renamed; nothing is left on failure. `fill` is called once for each
 * tensor in order and writes its n_bytes through shk_writer_put (file/writer.h). items[i].data is not read. */
struct shk_writer;
typedef shk_status shk_fill_fn(void *user, const shk_tensor *tensor, struct shk_writer *w, shk_error *err);
shk_status shk_safetensors_write(const char *path, const shk_tensor *items, size_t n, shk_fill_fn *fill, void *user,
                                 shk_error *err);

#endif
