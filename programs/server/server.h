/* The service: options, parts, and what the files of this folder share. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "server/prefix_cache.h"
#include "server/reply.h"
#include "server/request.h"
#include "server/scheduler.h"

typedef struct server_options {
    const char *host, *port;
    const char *name;         /* of the model, as clients know it */
    const char *key;          /* NULL: everybody may ask */
    bool open;                /* even from elsewhere */
    const char *const *hosts; /* [n_hosts] names under which a loopback server may be asked, besides its own */
    const char *const *origins; /* [n_origins] whose pages may ask */
    size_t n_hosts, n_origins;
    size_t body_bytes;   /* of one request */
    size_t connections;  /* at a time */
    double receive_s;    /* for a request to arrive whole */
    double request_s;    /* for its answer; 0: no limit */
    bool log;            /* a line on stderr for each request */
    request_defaults defaults;
} server_options;

typedef struct connection connection; /* http.c */

typedef struct server {
    server_options o;
    shk_model *model;
    const shk_tokenizer *tokenizer; /* NULL: none */
    uint64_t context;               /* of a sequence; 0: unbounded */
    char *description;              /* of the model, JSON */
    int64_t started;
    prefix_cache *cache;
    scheduler *scheduler;
    struct MHD_Daemon *daemon;
    bool loopback;
    int listener, port;
    _Atomic bool draining;
    _Atomic size_t body_bytes; /* that are being received */
    pthread_mutex_t parsing;   /* one body at a time: a JSON text takes many times its size */
    pthread_mutex_t lock;      /* of the list of connections */
    connection *connections;
    size_t n_connections;
} server;

/* One request of HTTP. */
typedef struct exchange {
    server *server;
    struct MHD_Connection *http;
    const struct route *route;
    const char *path, *method; /* MHD's, until the end */
    shk_buffer body;
    size_t counted; /* of the body, in server->body_bytes */
    bool refused;   /* the body is not kept: `error` is the answer */
    api_error error;
    int retry_s;
    const char *allow; /* the methods of an address that was asked with another one */
    const char *origin; /* of a page that may ask; NULL */
    reply *reply;
    double begun;
} exchange;

typedef struct route {
    const char *method, *path;
    bool open; /* no key is wanted */
    endpoint endpoint;
    enum MHD_Result (*handle)(exchange *x);
} route;

extern const route routes[]; /* api.c; ends with a path of NULL */

/* Binds; then serves, in threads of its own. false: said so. */
bool http_bind(server *s);
bool http_start(server *s);
void http_stop(server *s);
/* To be called every second or so: closes connections that take too long to ask. */
void http_tick(server *s);
size_t http_connections(server *s); /* that are open */

/* Queue an answer. respond takes the text, malloc'd; NULL is an answer of 503. */
enum MHD_Result respond(exchange *x, int status, const char *type, char *text, size_t n);
enum MHD_Result respond_json(exchange *x, int status, json_t *j); /* releases j */
enum MHD_Result respond_error(exchange *x);                      /* x->error */
enum MHD_Result respond_with(exchange *x, int status, struct MHD_Response *r); /* releases r */

/* The numbers of /metrics. NULL: no memory. */
char *metrics_text(server *s, size_t *n);

#endif
