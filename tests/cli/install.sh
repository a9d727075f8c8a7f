#!/usr/bin/env bash
# What `make install` puts where, programs that are built against it, and that nothing is left by `make uninstall`.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

dest=$work/dest prefix=/opt/sparkhawk
build() { make -s -C "$root" BUILD="$(dirname "$SPARKHAWK")" WERROR=1 DESTDIR="$dest" PREFIX=$prefix "$1" >out 2>err; }
here=$dest$prefix
export PKG_CONFIG_PATH=$here/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$dest LD_LIBRARY_PATH=$here/lib

build install
status=$?
check "make install succeeds" [ $status = 0 ]

for file in bin/sparkhawk include/sparkhawk.h include/sparkhawk_train.h lib/libsparkhawk.a lib/libsparkhawk.so \
    lib/libsparkhawk.so.0 lib/pkgconfig/sparkhawk.pc share/man/man1/sparkhawk.1 share/bash-completion/completions/sparkhawk \
    share/zsh/site-functions/_sparkhawk share/fish/vendor_completions.d/sparkhawk.fish; do
    check "$file is installed" [ -s "$here/$file" ]
done
version=$(pkg-config --modversion sparkhawk)
check "the installed program says the version of the pkg-config file" sh -c "'$here/bin/sparkhawk' --version | grep -qF ' $version'"

# exactly what the headers declare is visible in the library
sed -n 's/^SHK_API .*\b\(shk_[a-z0-9_]*\)(.*/\1/p' "$root"/include/*.h | sort >declared
nm -D --defined-only "$here/lib/libsparkhawk.so" | sed -n 's/.* [A-Z] //p' | sort >exported
check "the library exports what the headers declare: $(diff declared exported | tr '\n' ' ')" cmp -s declared exported

cat >user.c <<'EOF'
#include <sparkhawk.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    shk_error err;
    shk_model *model = NULL;
    if (strcmp(shk_version(), SHK_VERSION)) return 1;
    if (shk_model_load(&model, "/no/such/model.gguf", NULL, &err) != SHK_E_IO) return 2;
    return puts(err.message) < 0 || !strstr(err.message, "/no/such/model.gguf");
}
EOF
strict="-pedantic-errors -Wall -Wextra -Werror"
user() { # WHAT COMMAND...: compiles the program to `user` and runs it
    local what=$1
    shift
    "$@" -o user >out 2>err
    status=$?
    check "$what can be built" [ $status = 0 ]
    ./user >out 2>err
    status=$?
    check "$what runs" [ $status = 0 ]
}
# shellcheck disable=SC2046,SC2086
{
    user "a C99 program" gcc -std=c99 $strict user.c $(pkg-config --cflags --libs sparkhawk)
    user "a C++17 program" g++ -std=c++17 $strict -x c++ user.c $(pkg-config --cflags --libs sparkhawk)
    user "a statically linked program" gcc -std=c99 $strict user.c $(pkg-config --cflags sparkhawk) "$here/lib/libsparkhawk.a" \
        $(PKG_CONFIG_SYSROOT_DIR='' pkg-config --libs-only-l --libs-only-other jansson) -lm -pthread
}

build uninstall
check "make uninstall leaves nothing" [ -z "$(find "$dest" ! -type d)" ]
finish
