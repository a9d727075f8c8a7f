/* Text that grows piece by piece and is given out as it becomes certain: whole UTF-8 characters, and nothing that may be the start
 * of a stop string. */
#ifndef SHK_STREAM_H
#define SHK_STREAM_H

#include "mem.h"

typedef struct shk_stream {
    const char *const *stop; /* [n_stop] the caller's, none empty */
    size_t n_stop;
    shk_buffer text; /* all of it so far, cut before the first stop string */
    size_t sent;     /* of which this much has been given out */
    bool stopped;    /* a stop string has appeared */
} shk_stream;

/* Appends n bytes. false: no memory. */
bool shk_stream_put(shk_stream *s, const char *piece, size_t n);
/* The *n bytes that have become certain since the last call; all that are left, if nothing more will come (`last`). Never NULL;
 * they stay until the next put. */
const char *shk_stream_take(shk_stream *s, bool last, size_t *n);
/* Of the text alone: `stop` is the caller's. */
void shk_stream_free(shk_stream *s);

#endif
