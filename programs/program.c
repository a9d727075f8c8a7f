#include "program.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/writer.h"

volatile sig_atomic_t interrupted;

int fail(const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    fprintf(stderr, "sparkhawk: %s\n", line);
    return EXIT_FAILURE;
}

void *needed(void *p) {
    if (!p) exit(fail("out of memory"));
    return p;
}

void *need(void *p, size_t n, size_t size) {
    return needed(reallocarray(p, n ? n : 1, size));
}

char *formatted(const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    char *text = need(NULL, (size_t)n + 1, 1);
    vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    va_end(args);
    return text;
}

/* ---- standard output ---- */

static int put_errno;

static bool check(bool written) {
    if (!written && !put_errno) put_errno = errno;
    return !put_errno;
}

bool put(const void *data, size_t n) {
    return !put_errno && check(fwrite(data, 1, n, stdout) == n);
}

bool putf(const char *format, ...) {
    if (put_errno) return false;
    va_list args;
    va_start(args, format);
    bool written = vprintf(format, args) >= 0;
    va_end(args);
    return check(written);
}

bool put_flush(void) {
    return !put_errno && check(fflush(stdout) == 0);
}

/* Length of the control character at s, 0 if there is none: C0, DEL, and C1 in UTF-8. */
static size_t control(const unsigned char *s, size_t n) {
    if ((s[0] < ' ' && s[0] != '\n' && s[0] != '\t') || s[0] == 127) return 1;
    return n > 1 && s[0] == 0xc2 && s[1] < 0xa0 ? 2 : 0;
}

bool put_text(const char *text, size_t n) {
    static int terminal = -1;
    if (terminal < 0) terminal = isatty(STDOUT_FILENO);
    const unsigned char *s = (const unsigned char *)text;
    size_t start = 0;
    for (size_t i = 0, skip; terminal && i < n; i += skip ? skip : 1)
        if ((skip = control(s + i, n - i))) {
            put(text + start, i - start);
            start = i + skip;
        }
    put(text + start, n - start);
    return put_flush();
}

int put_status(int status) {
    put_flush();
    if (!put_errno) return status;
    return put_errno == EPIPE ? EXIT_FAILURE : fail("standard output: %s", strerror(put_errno));
}

/* ---- files ---- */

struct sink {
    shk_writer *writer; /* NULL: the stream */
    FILE *stream;
    const char *path;
    int error; /* of the stream, unless it is standard output, which keeps its own */
};

sink *sink_open(const char *path) {
    sink s = { .stream = stdout, .path = path };
    struct stat st;
    shk_error err;
    if (!strcmp(path, "-")) { /* stdout as it stands */
    } else if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) { /* renaming over /dev/null would replace the device */
        if (!(s.stream = fopen(path, "w"))) return fail("%s: %s", path, strerror(errno)), NULL;
    } else if (shk_writer_open(&s.writer, path, &err)) {
        return fail("%s", err.message), NULL;
    }
    sink *out = need(NULL, 1, sizeof *out);
    *out = s;
    return out;
}

bool sink_put(sink *s, const void *data, size_t n) {
    if (s->stream == stdout && !s->writer) return put(data, n);
    if (s->writer) return shk_writer_put(s->writer, data, n), true; /* its errors stick until sink_close */
    if (!s->error && fwrite(data, 1, n, s->stream) != n) s->error = errno;
    return !s->error;
}

int sink_close(sink *s, int status) {
    shk_error err;
    if (s->writer && status) {
        shk_writer_abandon(s->writer);
    } else if (s->writer) {
        if (shk_writer_commit(s->writer, &err)) status = fail("%s", err.message);
    } else if (s->stream != stdout) {
        if (fclose(s->stream) && !s->error) s->error = errno;
        if (s->error) status = fail("%s: %s", s->path, strerror(s->error));
    }
    free(s);
    return status;
}

char *read_all(const char *path, size_t *n) {
    const size_t cap = (size_t)1 << 30;
    bool standard = !strcmp(path, "-");
    const char *name = standard ? "standard input" : path;
    FILE *f = standard ? stdin : fopen(path, "r");
    if (!f) return fail("%s: %s", path, strerror(errno)), NULL;
    char *text = NULL;
    size_t size = 0, got = 0;
    do {
        if (size - got < 2) text = need(text, size = size ? 2 * size : 1 << 16, 1);
        size_t more = fread(text + got, 1, size - got - 1, f);
        if (!more) break;
        got += more;
    } while (got < cap);
    int error = ferror(f) ? errno : 0;
    if (!standard) fclose(f);
    if (error || got >= cap) {
        free(text);
        return fail("%s: %s", name, error ? strerror(error) : "larger than 1 GiB"), NULL;
    }
    text[got] = 0;
    *n = got;
    return text;
}

bool parse_ids(const char *text, const char *name, int32_t **ids, size_t *n) {
    static const char space[] = " ,\t\r\n";
    size_t capacity = 16;
    *n = 0;
    *ids = need(NULL, capacity, sizeof **ids);
    for (text += strspn(text, space); *text; text += strspn(text, space)) {
        char *end;
        errno = 0;
        long v = strtol(text, &end, 10);
        if (errno || *text < '0' || *text > '9' || v > INT32_MAX || (*end && !strchr(space, *end))) {
            fail("%s: '%.*s' is no token id", name, (int)strcspn(text, space), text);
            free(*ids);
            *ids = NULL;
            return false;
        }
        if (*n == capacity) *ids = need(*ids, capacity *= 2, sizeof **ids);
        (*ids)[(*n)++] = (int32_t)v;
        text = end;
    }
    return true;
}

/* ---- Ctrl-C ---- */

static void on_interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

void catch_interrupts(bool once) {
    struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = once ? (int)SA_RESETHAND : 0 }, before;
    sigaction(SIGINT, NULL, &before);
    if (!once || before.sa_handler != SIG_IGN) sigaction(SIGINT, &action, NULL);
}
