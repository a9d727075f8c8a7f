/* Between the scheduler, which must not wait, and a connection, which sleeps until there is something to send. */
#ifndef SERVER_REPLY_H
#define SERVER_REPLY_H

#include <microhttpd.h>

#include "server/answer.h"
#include "server/scheduler.h"

typedef struct reply reply;

/* For a task that is about to be submitted; its listener is set. There are two references: the caller's, and the task's, which is
 * also the caller's to release if it is not submitted. NULL: no memory. */
reply *reply_new(struct MHD_Connection *c, scheduler *s, task *t, const shk_tokenizer *tokenizer, const char *model);
void reply_release(reply *r); /* NULL is allowed */
/* The connection is closed: whoever generates for it may stop. */
void reply_gone(reply *r);

/* Not streamed: whether all is there. If not, the connection is suspended, and resumed when it is. */
bool reply_wait(reply *r);
/* Then: the body, the caller's to free(), and its status. NULL: no memory. */
char *reply_body(reply *r, size_t *n, int *status);
/* Streamed: a response that sends events as they come. NULL: no memory. */
struct MHD_Response *reply_stream(reply *r);

#endif
