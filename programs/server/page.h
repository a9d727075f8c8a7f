/* The page that GET / shows: files of programs/server/page, which lie in the program. */
#ifndef SERVER_PAGE_H
#define SERVER_PAGE_H

#include <stddef.h>

typedef struct page_file {
    const char *path; /* of the URL */
    const char *type; /* Content-Type */
    const char *data; /* [n] */
    size_t n;
    char etag[20]; /* with its quotes; a function of the bytes */
} page_file;

/* NULL: there is none at that path. */
const page_file *page_find(const char *path);

/* What browsers are told beside each: nothing from elsewhere, nothing inline, no frame around it. */
#define PAGE_POLICY \
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; " \
    "form-action 'none'; frame-ancestors 'none'"

#endif
