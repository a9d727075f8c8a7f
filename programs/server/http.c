/* Connections, and what is checked before anybody looks at a body. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "mem.h"
#include "program.h"
#include "server/server.h"

enum { THREADS = 4, HEADER_BYTES = 1 << 15, IDLE_S = 60, BODIES = 8, SEND_BYTES = 1 << 17 };

/* ---- connections: who takes too long to ask is closed, whatever trickles in meanwhile ---- */

struct connection {
    connection *next, *before;
    int fd;
    bool asking, evicted; /* an evicted one is shut, but MHD has not noticed yet */
    double since;
};

/* It counts no more: one newcomer evicts one. The lock is held. */
static void evict(server *s, connection *c) {
    c->evicted = true;
    s->n_connections--;
    shutdown(c->fd, SHUT_RDWR);
}

static void link_connection(server *s, connection *c) {
    pthread_mutex_lock(&s->lock);
    c->next = s->connections;
    if (c->next) c->next->before = c;
    s->connections = c;
    if (++s->n_connections > s->o.connections) { /* room is made by the one that has been asking the longest */
        connection *oldest = NULL;
        for (connection *i = s->connections; i; i = i->next)
            if (i->asking && !i->evicted && i != c && (!oldest || i->since < oldest->since)) oldest = i;
        evict(s, oldest ? oldest : c);
    }
    pthread_mutex_unlock(&s->lock);
}

static void unlink_connection(server *s, connection *c) {
    pthread_mutex_lock(&s->lock);
    if (c->next) c->next->before = c->before;
    if (c->before) c->before->next = c->next;
    else s->connections = c->next;
    s->n_connections -= !c->evicted;
    pthread_mutex_unlock(&s->lock);
    free(c);
}

static void on_connection(void *user, struct MHD_Connection *http, void **context, enum MHD_ConnectionNotificationCode what) {
    server *s = user;
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (*context) unlink_connection(s, *context);
        return;
    }
    connection *c = *context = shk_calloc(1, sizeof *c);
    if (!c) return;
    c->fd = MHD_get_connection_info(http, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &(int){ SEND_BYTES }, sizeof(int)); /* what the kernel keeps for who does not read */
    c->asking = true;
    c->since = seconds();
    link_connection(s, c);
}

static void set_asking(server *s, struct MHD_Connection *http, bool asking) {
    connection *c = MHD_get_connection_info(http, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    if (!c) return;
    pthread_mutex_lock(&s->lock);
    c->asking = asking;
    c->since = seconds();
    pthread_mutex_unlock(&s->lock);
}

size_t http_connections(server *s) {
    pthread_mutex_lock(&s->lock);
    size_t n = s->n_connections;
    pthread_mutex_unlock(&s->lock);
    return n;
}

void http_tick(server *s) {
    double now = seconds();
    pthread_mutex_lock(&s->lock);
    for (connection *c = s->connections; c; c = c->next)
        if (c->asking && now - c->since > s->o.receive_s) shutdown(c->fd, SHUT_RDWR);
    pthread_mutex_unlock(&s->lock);
}

/* ---- answers ---- */

/* What comes from outside is shown as plain ASCII. */
static void log_line(const exchange *x, int status) {
    char line[256];
    snprintf(line, sizeof line, "%.16s %.160s", x->method, x->path);
    for (char *c = line; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?';
    fprintf(stderr, "%s %d %.3f s\n", line, status, seconds() - x->begun);
}

enum MHD_Result respond_with(exchange *x, int status, struct MHD_Response *r) {
    if (!r) return MHD_NO;
    if (x->origin) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", x->origin);
        MHD_add_response_header(r, "Access-Control-Expose-Headers", "Retry-After");
        MHD_add_response_header(r, "Vary", "Origin");
    }
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    enum MHD_Result queued = MHD_queue_response(x->http, (unsigned)status, r);
    MHD_destroy_response(r);
    if (x->server->o.log) log_line(x, status);
    return queued;
}

enum MHD_Result respond(exchange *x, int status, const char *type, char *text, size_t n) {
    static char failure[] = "out of memory\n";
    struct MHD_Response *r = text ? MHD_create_response_from_buffer(n, text, MHD_RESPMEM_MUST_FREE)
                                  : MHD_create_response_from_buffer(sizeof failure - 1, failure, MHD_RESPMEM_PERSISTENT);
    if (r) MHD_add_response_header(r, "Content-Type", text ? type : "text/plain");
    else free(text);
    return respond_with(x, text ? status : MHD_HTTP_SERVICE_UNAVAILABLE, r);
}

enum MHD_Result respond_json(exchange *x, int status, json_t *j) {
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(j);
    return respond(x, status, "application/json", text, text ? strlen(text) : 0);
}

enum MHD_Result respond_error(exchange *x) {
    json_t *j = error_json(&x->error);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL, number[16];
    json_decref(j);
    if (!text) return respond(x, 503, "", NULL, 0);
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!r) return free(text), MHD_NO;
    snprintf(number, sizeof number, "%d", x->retry_s);
    MHD_add_response_header(r, "Content-Type", "application/json");
    if (x->retry_s) MHD_add_response_header(r, "Retry-After", number);
    if (x->error.status == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(r, "Allow", x->allow);
    if (x->error.status == MHD_HTTP_UNAUTHORIZED) MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    return respond_with(x, x->error.status, r);
}

/* ---- checks ---- */

static void deny(exchange *x, int status, const char *type, const char *code, const char *message) {
    x->refused = true;
    x->error = (api_error){ .status = status, .type = type, .code = code };
    snprintf(x->error.message, sizeof x->error.message, "%s", message);
}

/* In a time that does not tell how much of the key is right. */
static bool same_key(const char *given, const char *key) {
    size_t n = strlen(given), m = strlen(key);
    unsigned char difference = n != m;
    for (size_t i = 0; i < n; i++) difference |= (unsigned char)(given[i] ^ key[i % m]);
    return !difference;
}

static bool has_key(const exchange *x) {
    const char *header = MHD_lookup_connection_value(x->http, MHD_HEADER_KIND, "Authorization");
    if (!x->server->o.key || x->route->open) return true;
    return header && !strncasecmp(header, "Bearer ", 7) && same_key(header + 7, x->server->o.key);
}

static bool listed(const char *s, size_t n, const char *const *list, size_t n_list) {
    for (size_t i = 0; i < n_list; i++)
        if (strlen(list[i]) == n && !strncasecmp(list[i], s, n)) return true;
    return false;
}

/* A page elsewhere can make its own name mean 127.0.0.1; but then that name is in the Host header. */
static bool host_is_ours(const exchange *x) {
    static const char *const loopback[] = { "localhost", "127.0.0.1", "[::1]" };
    const char *host = MHD_lookup_connection_value(x->http, MHD_HEADER_KIND, "Host");
    if (!host || !x->server->loopback) return true;
    const char *colon = strrchr(host, ':');
    size_t n = colon && !strchr(colon, ']') ? (size_t)(colon - host) : strlen(host);
    return listed(host, n, loopback, 3) || listed(host, n, &x->server->o.host, 1) ||
           listed(host, n, x->server->o.hosts, x->server->o.n_hosts);
}

/* Browsers say whose page it is that asks: ours, or one that is named. */
static bool origin_is_welcome(exchange *x) {
    const char *origin = MHD_lookup_connection_value(x->http, MHD_HEADER_KIND, "Origin");
    const char *host = MHD_lookup_connection_value(x->http, MHD_HEADER_KIND, "Host");
    if (!origin) return true;
    if (listed(origin, strlen(origin), x->server->o.origins, x->server->o.n_origins)) {
        x->origin = origin;
        return true;
    }
    const char *name = strstr(origin, "://");
    return name && host && !strcasecmp(name + 3, host);
}

static const route *find_route(exchange *x) {
    const char *method = strcmp(x->method, "HEAD") ? x->method : "GET";
    for (const route *r = routes; r->path; r++) {
        size_t n = strlen(r->path);
        bool prefix = r->path[n - 1] == '*';
        if (prefix ? strncmp(r->path, x->path, n - 1) : strcmp(r->path, x->path)) continue;
        if (!strcmp(r->method, method)) return r;
        x->allow = strcmp(r->method, "GET") ? r->method : "GET, HEAD";
    }
    if (x->allow)
        deny(x, MHD_HTTP_METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", "this method is not for this address");
    else deny(x, MHD_HTTP_NOT_FOUND, "invalid_request_error", "not_found", "nothing is at this address");
    return NULL;
}

static void examine(exchange *x) {
    const char *length = MHD_lookup_connection_value(x->http, MHD_HEADER_KIND, "Content-Length");
    x->route = find_route(x);
    if (!host_is_ours(x))
        deny(x, MHD_HTTP_MISDIRECTED_REQUEST, "invalid_request_error", "wrong_host",
             "the Host header names another machine (--allow-host)");
    else if (!origin_is_welcome(x))
        deny(x, MHD_HTTP_FORBIDDEN, "invalid_request_error", "wrong_origin", "pages of this origin may not ask (--cors)");
    else if (x->route && !has_key(x))
        deny(x, MHD_HTTP_UNAUTHORIZED, "authentication_error", "invalid_api_key", "the API key is missing or wrong");
    else if (length && strtoull(length, NULL, 10) > x->server->o.body_bytes)
        deny(x, MHD_HTTP_CONTENT_TOO_LARGE, "invalid_request_error", "body_too_large", "the body is too large (--max-body)");
}

/* ---- a request ---- */

static bool preflight(const exchange *x) { return !strcmp(x->method, "OPTIONS") && x->origin; }

static enum MHD_Result allow(exchange *x) {
    struct MHD_Response *r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (r) MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST");
    if (r) MHD_add_response_header(r, "Access-Control-Allow-Headers", "Authorization, *");
    if (r) MHD_add_response_header(r, "Access-Control-Max-Age", "600");
    return respond_with(x, MHD_HTTP_NO_CONTENT, r);
}

/* What the bodies of all requests together may take. */
static void receive(exchange *x, const char *data, size_t n) {
    server *s = x->server;
    if (x->refused) return;
    if (n > s->o.body_bytes - x->body.n) {
        deny(x, MHD_HTTP_CONTENT_TOO_LARGE, "invalid_request_error", "body_too_large", "the body is too large (--max-body)");
        return;
    }
    x->counted += n;
    if (atomic_fetch_add(&s->body_bytes, n) + n > BODIES * s->o.body_bytes || !shk_buffer_append(&x->body, data, n)) {
        deny(x, MHD_HTTP_SERVICE_UNAVAILABLE, "server_error", "overloaded", "too many large requests at once");
        x->retry_s = 1;
    }
}

static void release_body(exchange *x) {
    atomic_fetch_sub(&x->server->body_bytes, x->counted);
    x->counted = 0;
    shk_buffer_free(&x->body);
}

static enum MHD_Result on_request(void *user, struct MHD_Connection *http, const char *url, const char *method, const char *version,
                                  const char *upload, size_t *n_upload, void **context) {
    (void)version;
    server *s = user;
    exchange *x = *context;
    if (!x) {
        if (!(x = *context = shk_calloc(1, sizeof *x))) return MHD_NO;
        *x = (exchange){ .server = s, .http = http, .path = url, .method = method, .begun = seconds() };
        examine(x);
        return MHD_YES;
    }
    if (*n_upload) { /* also of a refused request: who is still sending does not hear */
        receive(x, upload, *n_upload);
        *n_upload = 0;
        return MHD_YES;
    }
    set_asking(s, http, false);
    if (preflight(x)) return allow(x);
    if (x->refused) return respond_error(x);
    enum MHD_Result result = x->route->handle(x);
    release_body(x);
    return result;
}

static void on_completed(void *user, struct MHD_Connection *http, void **context, enum MHD_RequestTerminationCode why) {
    exchange *x = *context;
    (void)why;
    set_asking(user, http, true);
    if (!x) return;
    release_body(x);
    if (x->reply) reply_gone(x->reply);
    reply_release(x->reply);
    free(x);
    *context = NULL;
}

/* ---- the socket ---- */

static bool is_loopback(const struct sockaddr *a) {
    if (a->sa_family == AF_INET) return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static int port_of(int fd) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n)) return -1;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
}

bool http_bind(server *s) {
    struct addrinfo want = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *found;
    int failure = getaddrinfo(s->o.host, s->o.port, &want, &found), one = 1;
    if (failure) return fail("--host %s: %s", s->o.host, gai_strerror(failure)), false;
    s->loopback = is_loopback(found->ai_addr);
    s->listener = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool ok = s->listener >= 0 && !setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) &&
              !bind(s->listener, found->ai_addr, found->ai_addrlen) && !listen(s->listener, 1024);
    freeaddrinfo(found);
    if (!ok) return fail("%s port %s: %s", s->o.host, s->o.port, strerror(errno)), false;
    s->port = port_of(s->listener);
    if (!s->loopback && !s->o.key && !s->o.open)
        return fail("--host %s can be reached from elsewhere: give an API key, or --open to serve everybody", s->o.host), false;
    return true;
}

static void quiet(void *user, const char *format, va_list args) { (void)user, (void)format, (void)args; }

bool http_start(server *s) {
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->parsing, NULL);
    s->daemon = MHD_start_daemon(MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0,
                                 NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, quiet, NULL, MHD_OPTION_LISTEN_SOCKET,
                                 s->listener, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)THREADS, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)(s->o.connections + THREADS * 16), MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES, MHD_OPTION_NOTIFY_COMPLETED,
                                 on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_END);
    return s->daemon || (fail("the HTTP server cannot be started"), false);
}

static bool answering(server *s) {
    bool some = false;
    pthread_mutex_lock(&s->lock);
    for (const connection *c = s->connections; c; c = c->next) some |= !c->asking;
    pthread_mutex_unlock(&s->lock);
    return some;
}

void http_stop(server *s) {
    const struct timespec moment = { .tv_nsec = 10000000 };
    for (int i = 0; s->daemon && i < 200 && answering(s); i++) nanosleep(&moment, NULL); /* what is on its way arrives */
    if (s->daemon) MHD_stop_daemon(s->daemon);
    else if (s->listener >= 0) close(s->listener);
    s->daemon = NULL;
}
