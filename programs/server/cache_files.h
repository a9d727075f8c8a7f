/* The files of a state cache: for each state FINGERPRINT-HASH.ids with its token ids and FINGERPRINT-HASH.state with the session.
 * Each appears whole or not at all, the ids last. A thread writes them; the others do not wait. */
#ifndef SERVER_CACHE_FILES_H
#define SERVER_CACHE_FILES_H

#include <stdbool.h>

#include "server/prefix_cache.h"

typedef struct cache_files cache_files;
typedef struct cache_file cache_file; /* a handle; whoever has it gives it back by release or forget */

/* For each state of this model that is in the directory, those used longest ago first; ids [n] malloc'd, the receiver's; `earliest`
 * as shk_session_earliest says it. */
typedef void cache_found_fn(void *user, cache_file *file, int32_t *ids, size_t n, size_t earliest);

/* Makes the directory o->dir if there is none, readable by its owner alone; one that others may look into is refused. What a
 * process that ended early has left in it is deleted. Of more than o->disk_bytes of files, those used longest ago go. */
shk_status cache_files_open(cache_files **out, shk_model *m, const cache_options *o, cache_found_fn *found, void *user,
                            shk_error *err);
/* Waits for what is being written; the handles are void. NULL is allowed. */
void cache_files_close(cache_files *f);
uint64_t cache_files_bytes(cache_files *f, uint64_t *n);

/* Starts to write a copy of the state s behind ids [n]. `wait`: until there is a place in the queue; else NULL if there is none. */
cache_file *cache_file_write(cache_files *f, const shk_session *s, const int32_t *ids, size_t n, bool wait);
bool cache_file_ready(cache_files *f, const cache_file *file); /* written, and not deleted meanwhile */
shk_session *cache_file_load(cache_files *f, const cache_file *file); /* the caller's; NULL: it cannot be read */
void cache_file_touch(cache_files *f, cache_file *file); /* it was used */
void cache_file_release(cache_files *f, cache_file *file); /* the files stay */
void cache_file_forget(cache_files *f, cache_file *file);  /* and they go */

#endif
