/* Token shards, and batches packed from them.
 *
 * A shard is a safetensors file: `tokens` [n], I16 (to be read unsigned) or I32, and `documents` [d] of I64, where each document
 * begins, ascending from 0. */
#ifndef SHK_TRAIN_DATA_H
#define SHK_TRAIN_DATA_H

#include "file/tensors.h"

typedef struct shk_shard {
    shk_tensors file;
    const char *tokens, *documents; /* in the file, at any alignment */
    bool wide;                      /* 4 bytes a token */
    uint64_t n_tokens, n_documents;
    uint64_t before;                /* documents in the shards before it */
} shk_shard;

/* Documents are cut into pieces of at most T tokens that have a successor: a batch then has many documents in it, also where each
 * of them is a book. */
typedef struct shk_data {
    shk_shard *shards;
    size_t n;
    uint64_t n_documents, n_tokens, n_pieces;
    uint64_t *pieces; /* [n_documents] in the documents before it */
    size_t T;
} shk_data;

/* The shards NAME-00000.safetensors, NAME-00001... of a directory: at least one, and a document of two tokens. */
shk_status shk_data_open(shk_data *d, const char *dir, const char *name, size_t T, shk_error *err);
void shk_data_close(shk_data *d); /* a zeroed one is allowed */

/* Where reading goes on: pieces come in an order of their own in each epoch. */
typedef struct shk_place {
    uint64_t epoch, piece, offset; /* pieces before it in this epoch, tokens of it that have been read */
} shk_place;

/* The next B sequences of T tokens (arrays [B T], as shk_batch has them): pieces one after the other; one that does not fit goes on
 * in the next sequence. Targets are the following tokens of the same document. `seed` 0: in the order of the documents. */
void shk_data_next(const shk_data *d, shk_place *at, uint64_t seed, size_t B, int32_t *tokens, int32_t *targets, int32_t *first);
/* Which document row `row` of what would be next is from. */
uint64_t shk_data_document(const shk_data *d, const shk_place *at, uint64_t seed, size_t row);

#endif
