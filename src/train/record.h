/* What a run leaves for people: metrics.jsonl, one line for each step that is logged or evaluated; loss.svg, the picture of it; and
 * index.html, a page that shows both and refreshes itself. */
#ifndef SHK_TRAIN_RECORD_H
#define SHK_TRAIN_RECORD_H

#include "mem.h"
#include "sparkhawk_train.h"
#include "train/activity.h"

typedef struct shk_point {
    double step, loss, held_out; /* NaN: none */
} shk_point;

typedef struct shk_record {
    char *dir;
    int file; /* metrics.jsonl; -1: none yet */
    shk_point *points;
    size_t n, room;
    double drawn; /* when, in seconds */
} shk_record;

/* Opens the record in `dir`. Lines past `step` (of a run that was stopped after its last checkpoint) are dropped. */
shk_status shk_record_open(shk_record *r, const char *dir, uint64_t step, shk_error *err);
/* A line. tokens: consumed so far. */
shk_status shk_record_add(shk_record *r, const shk_train_progress *p, uint64_t tokens, const shk_activity *active, shk_error *err);
/* The picture and the page, if the last ones are older than `seconds`. */
shk_status shk_record_draw(shk_record *r, const shk_train_progress *p, double seconds, shk_error *err);
void shk_record_close(shk_record *r); /* a zeroed one is allowed */

/* Picture: [n] points as an SVG document appended to `out`. false: no memory. */
bool shk_picture(shk_buffer *out, const shk_point *points, size_t n, double steps);

/* Seconds of a clock that only goes forward. */
double shk_seconds(void);

#endif
