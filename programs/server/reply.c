#include "server/reply.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

/* Bytes that a client may leave unread before its sequences rest, and those at which they go on. */
enum { FULL_BYTES = 1 << 16, LISTENING_BYTES = 1 << 14, SEND_BYTES = 1 << 14 };

struct reply {
    pthread_mutex_t lock; /* of all that follows */
    int references;
    struct MHD_Connection *connection; /* NULL: closed */
    int fd;
    scheduler *scheduler;
    bool suspended, finished, full, broken;
    shk_buffer out; /* a stream's bytes, of which the first `sent` have been taken */
    size_t sent;
    answer answer;
    bool failed;
    api_error failure;
};

static void unlock_and_release(reply *r) {
    bool last = --r->references == 0;
    pthread_mutex_unlock(&r->lock);
    if (!last) return;
    pthread_mutex_destroy(&r->lock);
    shk_buffer_free(&r->out);
    answer_free(&r->answer);
    free(r);
}

void reply_release(reply *r) {
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    unlock_and_release(r);
}

/* The lock is held. */
static void resume(reply *r) {
    if (r->suspended) MHD_resume_connection(r->connection);
    r->suspended = false;
}

static void suspend(reply *r) {
    MHD_suspend_connection(r->connection);
    r->suspended = true;
}

/* ---- what the scheduler calls ---- */

/* "data: JSON\n\n"; releases j. */
static void put_event(reply *r, json_t *j) {
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    r->broken |= !text || !shk_buffer_append(&r->out, "data: ", 6) || !shk_buffer_append(&r->out, text, strlen(text)) ||
                 !shk_buffer_append(&r->out, "\n\n", 2);
    free(text);
    json_decref(j);
}

static void fail_whole(reply *r) {
    static const api_error no_memory = { 503, "server_error", "", "", "the answer has no room: stream it, or ask for less" };
    r->failed = true;
    r->failure = no_memory;
}

static void tell(void *user, const news *n) {
    reply *r = user;
    pthread_mutex_lock(&r->lock);
    if (n->finish == FINISH_FAILED && !r->failed) {
        r->failed = true;
        r->failure = *n->error;
        if (r->answer.stream) put_event(r, error_json(n->error));
    } else if (r->connection && !r->failed && n->finish != FINISH_FAILED) {
        if (r->answer.stream) put_event(r, answer_chunk(&r->answer, n));
        else if (!answer_add(&r->answer, n)) fail_whole(r);
    }
    if (r->answer.stream) resume(r);
    pthread_mutex_unlock(&r->lock);
}

static mood check(void *user) {
    reply *r = user;
    pthread_mutex_lock(&r->lock);
    struct pollfd p = { .fd = r->fd, .events = POLLRDHUP };
    size_t unread = r->out.n - r->sent;
    r->full = unread >= (r->full ? LISTENING_BYTES : FULL_BYTES);
    bool gone = !r->connection || r->broken || r->failed || (poll(&p, 1, 0) > 0 && p.revents);
    mood m = gone ? GONE : r->full ? FULL : LISTENING;
    pthread_mutex_unlock(&r->lock);
    return m;
}

static void done(void *user) {
    reply *r = user;
    pthread_mutex_lock(&r->lock);
    if (r->answer.stream && !r->failed && r->connection) {
        if (r->answer.include_usage) put_event(r, answer_usage_chunk(&r->answer));
        r->broken |= !shk_buffer_append(&r->out, "data: [DONE]\n\n", 14);
    }
    r->finished = true;
    resume(r);
    unlock_and_release(r);
}

/* ---- what the connection calls ---- */

reply *reply_new(struct MHD_Connection *c, scheduler *s, task *t, const shk_tokenizer *tokenizer, const char *model) {
    reply *r = shk_calloc(1, sizeof *r);
    if (!r) return NULL;
    *r = (reply){ .references = 2, .connection = c, .scheduler = s,
                  .fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd };
    if (!answer_init(&r->answer, &t->request, t->n_prompts, tokenizer, model)) return free(r), NULL;
    pthread_mutex_init(&r->lock, NULL);
    t->listener = (listener){ r, tell, check, done };
    return r;
}

void reply_gone(reply *r) {
    pthread_mutex_lock(&r->lock);
    r->connection = NULL;
    pthread_mutex_unlock(&r->lock);
    scheduler_wake(r->scheduler);
}

bool reply_wait(reply *r) {
    pthread_mutex_lock(&r->lock);
    bool finished = r->finished;
    if (!finished) suspend(r);
    pthread_mutex_unlock(&r->lock);
    return finished;
}

char *reply_body(reply *r, size_t *n, int *status) {
    static const api_error no_memory = { 503, "server_error", "", "", "out of memory" };
    pthread_mutex_lock(&r->lock);
    if (r->broken && !r->failed) r->failure = no_memory;
    bool failed = r->failed || r->broken;
    *status = failed ? r->failure.status : MHD_HTTP_OK;
    json_t *j = failed ? error_json(&r->failure) : answer_whole(&r->answer);
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    *n = text ? strlen(text) : 0;
    json_decref(j);
    pthread_mutex_unlock(&r->lock);
    return text;
}

static ssize_t read_stream(void *user, uint64_t pos, char *to, size_t max) {
    (void)pos;
    reply *r = user;
    pthread_mutex_lock(&r->lock);
    size_t n = r->out.n - r->sent;
    ssize_t got = (ssize_t)(n < max ? n : max);
    if (r->broken) got = MHD_CONTENT_READER_END_WITH_ERROR;
    else if (!got && r->finished) got = MHD_CONTENT_READER_END_OF_STREAM;
    else if (!got) suspend(r);
    if (got > 0) {
        memcpy(to, r->out.data + r->sent, (size_t)got);
        r->sent += (size_t)got;
    }
    if (r->sent > r->out.n / 2) { /* so each byte is moved once at most */
        r->out.n -= r->sent;
        memmove(r->out.data, r->out.data + r->sent, r->out.n);
        r->sent = 0;
    }
    bool hungry = r->full && r->out.n - r->sent < LISTENING_BYTES;
    pthread_mutex_unlock(&r->lock);
    if (hungry) scheduler_wake(r->scheduler);
    return got;
}

static void forget(void *user) { reply_release(user); }

struct MHD_Response *reply_stream(reply *r) {
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, SEND_BYTES, read_stream, r, forget);
    if (!response) return NULL;
    pthread_mutex_lock(&r->lock);
    r->references++;
    pthread_mutex_unlock(&r->lock);
    return response;
}

