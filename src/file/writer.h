/* A file that appears whole or not at all: written in the same directory, without a name where the file system can and under a
 * temporary one elsewhere, synced, renamed. Only a temporary name can outlive a process that is killed.
 * (Where the file system can, but linking is forbidden, commit fails.)
 * A symbolic link is followed: the file behind it is replaced (or made) and the link stays. A new file gets the permissions
 * that the umask leaves, one that replaces another keeps that one's. Directories, devices and FIFOs are refused. */
#ifndef SHK_FILE_WRITER_H
#define SHK_FILE_WRITER_H

#include "error.h"

typedef struct shk_writer shk_writer;

shk_status shk_writer_open(shk_writer **out, const char *path, shk_error *err);
/* Buffered. Errors stick: after one, put does nothing and commit reports it. */
void shk_writer_put(shk_writer *w, const void *data, size_t n);
void shk_writer_pad(shk_writer *w, size_t alignment); /* zeros up to a multiple */
uint64_t shk_writer_offset(const shk_writer *w); /* bytes put and padded so far, those that failed included */
/* Flush, fsync, rename, fsync of the directory; frees w in every case; on failure nothing is left behind. */
shk_status shk_writer_commit(shk_writer *w, shk_error *err);
void shk_writer_abandon(shk_writer *w); /* leaves nothing behind and frees w; NULL is allowed */

/* A whole small file, the same way. */
shk_status shk_write_file(const char *path, const void *data, size_t n, shk_error *err);

#endif
