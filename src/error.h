/* Status and message. The cause is recorded once, where it is known. */
#ifndef SHK_ERROR_H
#define SHK_ERROR_H

#include "sparkhawk.h"

/* Fills *err (if not NULL) with the status and the formatted message (one line; cut to fit; control characters and bytes
 * that are not UTF-8 become '?', so that names from a hostile file reach neither a terminal nor a JSON reply raw) and
 * returns the status. */
shk_status shk_fail(shk_error *err, shk_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same for a failed system call: appends ": " and strerror(errno). SHK_E_MEMORY for ENOMEM, else SHK_E_IO. */
shk_status shk_fail_errno(shk_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " before the message already in *err; returns `status`, that of the failure so described. */
shk_status shk_fail_in(shk_error *err, shk_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
