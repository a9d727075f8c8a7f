/* Files that must be refused. Include scratch.h first. */
#ifndef SHK_REFUSED_H
#define SHK_REFUSED_H

#include "error.h"

/* Every file of the folder: `open` must fail with a message that starts with the file's path and says something behind it. */
static void check_refused(const char *folder, shk_status (*open_file)(const char *path, shk_error *err)) {
    DIR *dir = opendir(folder);
    NEED(dir, "%s cannot be read", folder);
    for (const struct dirent *e; (e = readdir(dir));) {
        char path[PATH_MAX];
        shk_error err = { 0 };
        if (*e->d_name == '.') continue;
        int n = snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        shk_status status = open_file(path, &err);
        CHECK(status == SHK_E_FORMAT || status == SHK_E_UNSUPPORTED, "%s: status %d", path, status);
        CHECK(strncmp(err.message, path, (size_t)n) == 0 && strlen(err.message) > (size_t)n + 10, "%s: %s", path, err.message);
        CHECK(err.status == status, "%s: %d and %d", path, status, err.status);
    }
    closedir(dir);
}

#endif
