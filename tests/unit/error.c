#include "error.h"

#include <errno.h>

#include "../test.h"

static void expect(const char *given, const char *wanted) {
    shk_error err = { 0 };
    CHECK(shk_fail(&err, SHK_E_FORMAT, "%s", given) == SHK_E_FORMAT && err.status == SHK_E_FORMAT, "status %d", err.status);
    CHECK(strcmp(err.message, wanted) == 0, "\"%s\" for \"%s\"", err.message, wanted);
}

static void test_cleaning(void) {
    expect("plain text, 3 = 3", "plain text, 3 = 3");
    expect("two\nlines\tand \x1b[31mred\x7f", "two?lines?and ?[31mred?");
    expect("grüße ☃ 𝄞", "grüße ☃ 𝄞");
    expect("\xc2\x9b" "31m", "??31m");               /* a C1 control */
    expect("\xc0\xaf \xe0\x80\xaf", "?? ???");       /* overlong */
    expect("\xed\xa0\x80", "???");                   /* a surrogate */
    expect("\xf4\x90\x80\x80 \xf8\x88\x80\x80\x80", "???? ?????"); /* past the last code point */
    expect("\xe2\x98", "??");                        /* cut short */
    expect("\xff\xfe\x80", "???");
}

static void test_cutting(void) {
    char text[2000];
    shk_error err;
    memset(text, 'x', sizeof text - 1), text[sizeof text - 1] = 0;
    shk_fail(&err, SHK_E_IO, "%s", text);
    CHECK(strlen(err.message) == sizeof err.message - 1, "%zu bytes", strlen(err.message));
    shk_fail_in(&err, SHK_E_IO, "%s", text);
    CHECK(strlen(err.message) == sizeof err.message - 1, "%zu bytes", strlen(err.message));
}

static void test_errno(void) {
    shk_error err;
    errno = ENOENT;
    CHECK(shk_fail_errno(&err, "%s", "some/file") == SHK_E_IO, "status");
    CHECK(strcmp(err.message, "some/file: No such file or directory") == 0, "%s", err.message);
    errno = ENOMEM;
    CHECK(shk_fail_errno(&err, "x") == SHK_E_MEMORY, "status");
}

static void test_prefix(void) {
    shk_error err;
    shk_fail(&err, SHK_E_FORMAT, "field %d", 3);
    CHECK(shk_fail_in(&err, SHK_E_FORMAT, "in %s", "a.json") == SHK_E_FORMAT, "status");
    CHECK(strcmp(err.message, "in a.json: field 3") == 0 && err.status == SHK_E_FORMAT, "%s", err.message);
}

static void test_null(void) {
    errno = ENOMEM;
    CHECK(shk_fail_errno(NULL, "x") == SHK_E_MEMORY, "status");
    CHECK(shk_fail(NULL, SHK_E_LIMIT, "x") == SHK_E_LIMIT, "status");
    CHECK(shk_fail_in(NULL, SHK_E_LIMIT, "x") == SHK_E_LIMIT, "status");
}

int main(void) {
    test_cleaning();
    test_cutting();
    test_errno();
    test_prefix();
    test_null();
    return test_done();
}
