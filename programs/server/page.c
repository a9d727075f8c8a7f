#include "server/page.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* F(name, file, Content-Type): `file` lies in programs/server/page, seen from where make runs, and is found at /page/FILE. */
#define HTML "text/html; charset=utf-8"
#define CSS "text/css; charset=utf-8"
#define JS "text/javascript; charset=utf-8"
#define SVG "image/svg+xml"
#define FILES(F)                                                                                            \
    F(html, "index.html", HTML) F(css, "style.css", CSS) F(app, "app.js", JS) F(api, "api.js", JS)          \
    F(dom, "dom.js", JS) F(highlight, "highlight.js", JS) F(markdown, "markdown.js", JS)                    \
    F(meter, "meter.js", JS) F(settings, "settings.js", JS) F(side, "side.js", JS)                          \
    F(store, "store.js", JS) F(view, "view.js", JS) F(icon, "icon.svg", SVG)

/* The bytes of a file lie from its label to the one behind it. */
#define BYTES(name, file, type)                                                                             \
    __asm__(".pushsection .rodata\npage_" #name "_begin: .incbin \"programs/server/page/" file "\"\n"       \
            "page_" #name "_end: .byte 0\n.popsection");                                                    \
    extern const char page_##name##_begin[] __attribute__((visibility("hidden")));                          \
    extern const char page_##name##_end[] __attribute__((visibility("hidden")));
#define ROW(name, file, type) { "/page/" file, type, page_##name##_begin, 0, "" },
#define END(name, file, type) page_##name##_end,

FILES(BYTES)
static page_file files[] = { FILES(ROW) };
static const char *const ends[] = { FILES(END) };
enum { N_FILES = sizeof files / sizeof *files };

/* The ETag is FNV-1a of the bytes. */
static void measure(void) {
    for (size_t i = 0; i < N_FILES; i++) {
        uint64_t h = 14695981039346656037u;
        files[i].n = (size_t)(ends[i] - files[i].data);
        for (size_t j = 0; j < files[i].n; j++) h = (h ^ (unsigned char)files[i].data[j]) * 1099511628211u;
        snprintf(files[i].etag, sizeof files[i].etag, "\"%016llx\"", (unsigned long long)h);
    }
}

const page_file *page_find(const char *path) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, measure);
    for (size_t i = 0; i < N_FILES; i++)
        if (!strcmp(files[i].path, strcmp(path, "/") ? path : "/page/index.html")) return &files[i];
    return NULL;
}
