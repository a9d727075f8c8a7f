/* Inside of shk_tokenizer, for the model loader and the converter. */
#ifndef SHK_TEXT_TOKENIZER_H
#define SHK_TEXT_TOKENIZER_H

#include "error.h"
#include "file/gguf.h"

/* From the tokenizer.ggml.* metadata of an open file. *out stays NULL (and SHK_OK) when the file has no tokenizer. What the
 * tokenizer needs is copied. */
shk_status shk_tokenizer_from_gguf(shk_tokenizer **out, const shk_gguf *g, shk_error *err);

/* Puts the tokenizer into a new file's metadata (tokenizer.ggml.*), so that shk_tokenizer_from_gguf and llama.cpp read it back.
 * false: out of memory. A list of merges that scores cannot express is put beside the scores; llama.cpp goes by the latter. */
bool shk_tokenizer_to_gguf(const shk_tokenizer *t, shk_gguf_meta *m);

/* Writes the tokenizer as a tokenizer.model (SentencePiece protobuf), for export to a Hugging Face directory.
 * SHK_E_UNSUPPORTED if it has no unknown token or a list of merges that scores cannot express. */
shk_status shk_tokenizer_write_model(const shk_tokenizer *t, const char *path, shk_error *err);

/* "bpe" or "unigram". */
const char *shk_tokenizer_kind(const shk_tokenizer *t);

#endif
