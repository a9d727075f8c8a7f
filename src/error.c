#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Length of the UTF-8 sequence at s (0: none starts here). Overlong forms, surrogates and the C1 controls count as none:
 * a terminal obeys the latter like the C0 ones. */
static size_t printable_length(const unsigned char *s) {
    if (s[0] < 0x80) return s[0] >= 0x20 && s[0] != 0x7f;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    uint32_t code = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (s[i] & 0x3f);
    }
    static const uint32_t least[] = { 0, 0, 0xa0, 0x800, 0x10000 };
    bool surrogate = code >= 0xd800 && code < 0xe000;
    return s[0] >= 0xc0 && s[0] < 0xf8 && code >= least[n] && code < 0x110000 && !surrogate ? n : 0;
}

static void clean(char *message) {
    for (char *s = message; *s;) {
        size_t n = printable_length((const unsigned char *)s);
        if (n == 0) *s = '?', n = 1;
        s += n;
    }
}

shk_status shk_fail(shk_error *err, shk_status status, const char *format, ...) {
    if (err == NULL) return status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    err->status = status;
    clean(err->message);
    return status;
}

shk_status shk_fail_errno(shk_error *err, const char *format, ...) {
    int saved = errno;
    shk_status status = saved == ENOMEM ? SHK_E_MEMORY : SHK_E_IO;
    if (err == NULL) return status;
    char what[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    errno = saved;
    return shk_fail(err, status, "%s: %m", what);
}

shk_status shk_fail_in(shk_error *err, shk_status status, const char *format, ...) {
    if (err == NULL) return status;
    char prefix[sizeof err->message], message[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    memcpy(message, err->message, sizeof message);
    return shk_fail(err, status, "%s: %s", prefix, message);
}
