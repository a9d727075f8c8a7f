#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "file/writer.h"

/* This program's own system calls stand in for the C library's, to fail as a disk would. */
static struct {
    bool interrupt; /* every second write is interrupted, the others write at most 1000 bytes */
    size_t room;    /* bytes until the disk is full */
    int fsync_error, rename_error, close_error, link_error;
    bool no_proc;
} disk;
static bool names_only; /* files without a name are not known */

static void healthy(void) {
    memset(&disk, 0, sizeof disk);
    disk.room = SIZE_MAX;
}

static int fail_with(int error) {
    errno = error;
    return -1;
}

ssize_t write(int fd, const void *data, size_t n) {
    static bool odd;
    if (fd <= STDERR_FILENO) return syscall(SYS_write, fd, data, n);
    if (disk.interrupt) {
        odd = !odd;
        if (odd) return fail_with(EINTR);
        n = n < 1000 ? n : 1000;
    }
    n = n < disk.room ? n : disk.room;
    if (n == 0) return fail_with(ENOSPC);
    disk.room -= n;
    return syscall(SYS_write, fd, data, n);
}

int fsync(int fd) { return disk.fsync_error ? fail_with(disk.fsync_error) : (int)syscall(SYS_fsync, fd); }

int rename(const char *from, const char *to) {
    return disk.rename_error ? fail_with(disk.rename_error) : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    unsigned mode = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(args, unsigned) : 0;
    va_end(args);
    if (names_only && (flags & O_TMPFILE) == O_TMPFILE) return fail_with(EOPNOTSUPP);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int access(const char *path, int mode) {
    return disk.no_proc ? fail_with(ENOENT) : (int)syscall(SYS_faccessat, AT_FDCWD, path, mode);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    return disk.link_error ? fail_with(disk.link_error) : (int)syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}

int close(int fd) {
    int status = (int)syscall(SYS_close, fd);
    return disk.close_error ? fail_with(disk.close_error) : status;
}

static bool holds(const char *path, const char *wanted, size_t n) {
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    bool same = true;
    for (size_t i = 0; i < n && same; i++) same = fgetc(f) == (unsigned char)wanted[i];
    same = same && fgetc(f) == EOF;
    fclose(f);
    return same;
}

static unsigned mode_of(const char *path) {
    struct stat st;
    return stat(path, &st) ? 0 : st.st_mode & 07777;
}

static void test_small(void) {
    shk_error err;
    const char *path = scratch("small");
    umask(027);
    CHECK(shk_write_file(path, "abc", 3, &err) == SHK_OK && holds(path, "abc", 3), "%s", err.message);
    CHECK(mode_of(path) == 0640, "mode %o", mode_of(path));
    umask(022);
    chmod(path, 0600);
    CHECK(shk_write_file(path, "", 0, &err) == SHK_OK && holds(path, "", 0), "%s", err.message);
    CHECK(mode_of(path) == 0600, "mode %o", mode_of(path));
    CHECK(shk_write_file(scratch("new"), "x", 1, &err) == SHK_OK, "%s", err.message);
    CHECK(mode_of(scratch("new")) == 0644, "mode %o", mode_of(scratch("new")));
    char name[256];
    memset(name, 'n', 255), name[255] = 0;
    CHECK(shk_write_file(scratch(name), "x", 1, &err) == SHK_OK, "a name as long as can be: %s", err.message);
}

/* Pieces of all sizes, below and above the buffer's, under interruptions and short writes. */
static void test_large(void) {
    static char data[3000000];
    shk_writer *w;
    shk_error err;
    unsigned long long seed = 3;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (char)test_random(&seed);
    for (int interrupt = 0; interrupt < 2; interrupt++) {
        disk.interrupt = interrupt;
        NEED(shk_writer_open(&w, scratch("large"), &err) == SHK_OK, "%s", err.message);
        bool counts = true;
        for (size_t at = 0, n; at < sizeof data; at += n) {
            n = test_random(&seed) % (at % 7 ? 5000 : 700000);
            if (n > sizeof data - at) n = sizeof data - at;
            shk_writer_put(w, data + at, n);
            counts = counts && shk_writer_offset(w) == at + n;
        }
        CHECK(counts, "the offset is not what was put");
        CHECK(shk_writer_commit(w, &err) == SHK_OK, "%s", err.message);
        CHECK(holds(scratch("large"), data, sizeof data), "other bytes than were put");
        healthy();
    }
}

static void test_pad(void) {
    shk_writer *w;
    shk_error err;
    static char wanted[1001 * 2] = "abc";
    wanted[1001] = 'd';
    NEED(shk_writer_open(&w, scratch("pad"), &err) == SHK_OK, "%s", err.message);
    shk_writer_pad(w, 32);
    CHECK(shk_writer_offset(w) == 0, "nothing to pad");
    shk_writer_put(w, "abc", 3);
    shk_writer_pad(w, 1);
    CHECK(shk_writer_offset(w) == 3, "aligned to 1");
    shk_writer_pad(w, 1001);
    shk_writer_pad(w, 1001);
    shk_writer_put(w, "d", 1);
    shk_writer_pad(w, 1001);
    CHECK(shk_writer_commit(w, &err) == SHK_OK && holds(scratch("pad"), wanted, sizeof wanted), "padding");
}

/* The old file is as it was, and nothing else has appeared. */
static void fails(const char *what, const char *why) {
    static char data[1000000];
    shk_writer *w;
    shk_error err;
    const char *path = scratch("kept");
    int before = count_entries(scratch_dir);
    NEED(shk_writer_open(&w, path, &err) == SHK_OK, "%s", err.message);
    for (int i = 0; i < 5; i++) shk_writer_put(w, data, sizeof data);
    CHECK(shk_writer_offset(w) == 5 * sizeof data, "%s: the offset counts what was put", what);
    CHECK(shk_writer_commit(w, &err) == SHK_E_IO, "%s: no error", what);
    healthy();
    CHECK(strstr(err.message, path) && strstr(err.message, why), "%s: %s", what, err.message);
    CHECK(holds(path, "old", 3) && count_entries(scratch_dir) == before, "%s: something has changed", what);
}

static void test_failures(void) {
    scratch_file("kept", "old", 3);
    disk.room = 2345678;
    fails("a full disk", "No space left");
    disk.room = 0;
    fails("a disk full from the start", "No space left");
    disk.fsync_error = EIO;
    fails("fsync", "Input/output error");
    disk.close_error = EDQUOT;
    fails("close", "quota");
    disk.rename_error = EACCES;
    fails("rename", "Permission denied");
    if (!names_only) disk.link_error = EDQUOT, fails("the file's name", "quota");
    struct rlimit old;
    NEED(getrlimit(RLIMIT_FSIZE, &old) == 0, "getrlimit");
    signal(SIGXFSZ, SIG_IGN);
    NEED(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 1234567, old.rlim_max }) == 0, "setrlimit");
    fails("a limit on file sizes", "File too large");
    setrlimit(RLIMIT_FSIZE, &old);
}

static void refused(const char *path, const char *why) {
    shk_writer *w = NULL;
    shk_error err = { 0 };
    CHECK(shk_writer_open(&w, path, &err) == SHK_E_IO && w == NULL, "%s was opened", path);
    CHECK(strstr(err.message, path) && strstr(err.message, why), "%s", err.message);
    shk_writer_abandon(w);
}

static void test_refused(void) {
    NEED(mkdir(scratch("locked"), 0500) == 0 && !symlink("b", scratch("a")) && !symlink("a", scratch("b")), "mkdir, symlink");
    int before = count_entries(scratch_dir);
    refused(scratch("missing/x"), "No such file");
    refused(scratch("small/x"), "Not a directory");
    refused(scratch_dir, "is a directory");
    refused("/dev/full", "not a regular file");
    refused("", "names no file");
    refused(scratch("x/"), "names no file");
    refused(scratch("a"), "symbolic links");
    bool root = geteuid() == 0; /* root may write everywhere */
    NEED(!root || seteuid(65534) == 0, "seteuid");
    refused(scratch("locked/x"), "Permission denied");
    NEED(!root || seteuid(0) == 0, "seteuid");
    CHECK(count_entries(scratch_dir) == before, "something was left behind");
}

/* To a file elsewhere, through another link; to nothing yet; in the directory where the program is. */
static void test_links(void) {
    shk_error err;
    struct stat st;
    NEED(mkdir(scratch("elsewhere"), 0700) == 0, "mkdir");
    scratch_file("elsewhere/real", "old", 3);
    NEED(!symlink("elsewhere/real", scratch("one")) && !symlink(scratch("one"), scratch("two")), "symlink");
    NEED(!symlink("elsewhere/later", scratch("dangling")), "symlink");
    CHECK(shk_write_file(scratch("two"), "new", 3, &err) == SHK_OK, "%s", err.message);
    CHECK(holds(scratch("elsewhere/real"), "new", 3), "the link was not followed");
    CHECK(lstat(scratch("two"), &st) == 0 && S_ISLNK(st.st_mode), "the link was replaced");
    CHECK(shk_write_file(scratch("dangling"), "new", 3, &err) == SHK_OK, "%s", err.message);
    CHECK(holds(scratch("elsewhere/later"), "new", 3), "the link was not followed");
    CHECK(count_entries(scratch("elsewhere")) == 2, "something was left behind");
    NEED(chdir(scratch_dir) == 0, "chdir");
    CHECK(shk_write_file("plain", "y", 1, &err) == SHK_OK && holds(scratch("plain"), "y", 1), "%s", err.message);
    NEED(chdir("/") == 0, "chdir");
}

static void test_abandon(void) {
    shk_writer *w;
    shk_error err;
    int before = count_entries(scratch_dir);
    NEED(shk_writer_open(&w, scratch("kept"), &err) == SHK_OK, "%s", err.message);
    shk_writer_put(w, "new", 3);
    shk_writer_abandon(w);
    CHECK(holds(scratch("kept"), "old", 3) && count_entries(scratch_dir) == before, "something has changed");
    shk_writer_abandon(NULL);
}

/* Nothing can be seen before the commit, so nothing is left of a process that is killed. */
static void test_killed(void) {
    shk_writer *w;
    shk_error err;
    int before = count_entries(scratch_dir), status;
    int fd = open(scratch_dir, O_TMPFILE | O_WRONLY, 0600);
    if (fd < 0) {
        SKIP("%s is on a file system without files that have no name", scratch_dir);
        return;
    }
    close(fd);
    pid_t child = fork();
    if (!child) {
        if (shk_writer_open(&w, scratch("kept"), &err) == SHK_OK) shk_writer_put(w, "new", 3);
        raise(SIGKILL);
    }
    NEED(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status), "fork");
    CHECK(holds(scratch("kept"), "old", 3) && count_entries(scratch_dir) == before, "something has changed");
    disk.no_proc = true;
    CHECK(shk_write_file(scratch("kept"), "old", 3, &err) == SHK_OK && holds(scratch("kept"), "old", 3), "%s", err.message);
    CHECK(count_entries(scratch_dir) == before, "something was left behind");
    healthy();
}

/* Two at once on one target: the last to commit wins. */
static void test_two(void) {
    shk_writer *a, *b;
    shk_error err;
    NEED(shk_writer_open(&a, scratch("both"), &err) == SHK_OK, "%s", err.message);
    NEED(shk_writer_open(&b, scratch("both"), &err) == SHK_OK, "%s", err.message);
    shk_writer_put(a, "first", 5);
    shk_writer_put(b, "second", 6);
    CHECK(shk_writer_commit(b, &err) == SHK_OK && shk_writer_commit(a, &err) == SHK_OK, "%s", err.message);
    CHECK(holds(scratch("both"), "first", 5), "mixed up");
}

int main(void) {
    healthy();
    test_small();
    test_pad();
    test_refused();
    test_links();
    for (int i = 0; i < 2; i++, names_only = true) {
        test_large();
        test_failures();
        test_abandon();
        test_two();
        if (!names_only) test_killed();
    }
    return test_done();
}
