/* What the sparse layers did in a batch. */
#ifndef SHK_TRAIN_ACTIVITY_H
#define SHK_TRAIN_ACTIVITY_H

#include "train/net.h"

/* NaN where there is nothing of the kind. */
typedef struct shk_activity {
    size_t layers;
    double *neurons;   /* [layers] mean share of the layer's neurons that were active */
    double *positions; /* [layers] mean number of positions that a head of spark attention attended to */
    double share;      /* of all neurons in sparse layers */
} shk_activity;

/* Makes room; shk_activity_free releases. false: no memory. */
bool shk_activity_new(shk_activity *a, const shk_config *c);
void shk_activity_free(shk_activity *a); /* a zeroed one is allowed */
/* In the batch that the net has last run: `neurons` and `positions`, which are one array of 2 * layers values. A net that
 * recomputes no longer knows. */
void shk_activity_measure(shk_activity *a, const shk_net *n);
/* `share` from `neurons`. */
void shk_activity_add_up(shk_activity *a, const shk_config *c);

#endif
