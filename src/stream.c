#include "stream.h"

#include <string.h>

/* Bytes at the end of a text that begin a UTF-8 character whose rest is still to come. */
static size_t unfinished(const char *text, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)text[n - back];
        if ((c & 0xC0) == 0x80) continue;
        size_t length = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
        return length > back ? back : 0;
    }
    return 0;
}

/* Bytes at the end that may yet become a stop string. */
static size_t possible_stop(const shk_stream *s) {
    size_t n = s->text.n - s->sent, held = 0;
    for (size_t i = 0; i < s->n_stop; i++) {
        size_t length = strlen(s->stop[i]);
        for (size_t k = length - 1 < n ? length - 1 : n; k > held; k--)
            if (memcmp(s->text.data + s->text.n - k, s->stop[i], k) == 0) {
                held = k;
                break;
            }
    }
    return held;
}

/* Cuts the text before the first stop string, if there is one in what `fresh` new bytes may have completed. */
static void cut_at_stop(shk_stream *s, size_t fresh) {
    size_t first = s->text.n;
    for (size_t i = 0; i < s->n_stop; i++) {
        size_t length = strlen(s->stop[i]), from = s->text.n > fresh + length ? s->text.n - fresh - length : 0;
        if (from < s->sent) from = s->sent;
        const char *found = memmem(s->text.data + from, s->text.n - from, s->stop[i], length);
        if (found && (size_t)(found - s->text.data) < first) first = (size_t)(found - s->text.data);
    }
    if (first == s->text.n) return;
    s->text.n = first;
    s->text.data[first] = 0;
    s->stopped = true;
}

bool shk_stream_put(shk_stream *s, const char *piece, size_t n) {
    if (!shk_buffer_append(&s->text, piece, n)) return false;
    if (n) cut_at_stop(s, n);
    return true;
}

const char *shk_stream_take(shk_stream *s, bool last, size_t *n) {
    size_t held = last || s->stopped ? 0 : possible_stop(s), tail = last ? 0 : unfinished(s->text.data, s->text.n);
    size_t end = s->text.n - (held > tail ? held : tail), from = s->sent;
    if (end < from) end = from;
    s->sent = end;
    *n = end - from;
    return s->text.data ? s->text.data + from : "";
}

void shk_stream_free(shk_stream *s) { shk_buffer_free(&s->text); }
