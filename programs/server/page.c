#include "server/page.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The bytes of a file from its label to the next one's; the path is from where make runs. */
#define FILE_BYTES(name, path)                                                                                  \
    __asm__(".pushsection .rodata\n" #name "_begin: .incbin \"programs/server/page/" path "\"\n" #name "_end: .byte 0\n" \
            ".popsection");                                                                                     \
    extern const char name##_begin[] __attribute__((visibility("hidden")));                                     \
    extern const char name##_end[] __attribute__((visibility("hidden")));

FILE_BYTES(page_html, "index.html")
FILE_BYTES(page_css, "style.css")
FILE_BYTES(page_js, "app.js")

static page_file files[] = {
    { "/", "text/html; charset=utf-8", page_html_begin, 0, "" },
    { "/style.css", "text/css; charset=utf-8", page_css_begin, 0, "" },
    { "/app.js", "text/javascript; charset=utf-8", page_js_begin, 0, "" },
};
static const char *const ends[] = { page_html_end, page_css_end, page_js_end };
enum { FILES = sizeof files / sizeof *files };

/* The ETag is FNV-1a of the bytes. */
static void measure(void) {
    for (size_t i = 0; i < FILES; i++) {
        uint64_t h = 14695981039346656037u;
        files[i].n = (size_t)(ends[i] - files[i].data);
        for (size_t j = 0; j < files[i].n; j++) h = (h ^ (unsigned char)files[i].data[j]) * 1099511628211u;
        snprintf(files[i].etag, sizeof files[i].etag, "\"%016llx\"", (unsigned long long)h);
    }
}

const page_file *page_find(const char *path) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, measure);
    for (size_t i = 0; i < FILES; i++)
        if (!strcmp(files[i].path, path)) return &files[i];
    return NULL;
}
