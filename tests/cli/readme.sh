#!/usr/bin/env bash
# README.md tells the truth: its commands are run as they stand there, its C program is compiled and run.
# shellcheck source-path=SCRIPTDIR source=lib.sh
model=${XDG_CACHE_HOME:-$HOME/.cache}/sparkhawk/gemma3-270m-q4_k_m.gguf
. "$(dirname "$0")/lib.sh"

fenced() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/{/^\`\`\`/!p}" "$root/README.md"; } # the blocks of one language

fenced c >capital.c
gcc -std=c99 -pedantic-errors -Wall -Wextra -Werror -I"$root/include" capital.c "${SPARKHAWK%/*}/libsparkhawk.a" -ljansson -lm \
    -pthread -o capital >out 2>err
status=$?
check "the C program can be built" [ $status = 0 ]
speaking gemma3
./capital speaking >out 2>err
status=$?
check "the C program generates text" [ $status = 0 ]
./capital nowhere >out 2>err
status=$?
check "the C program tells of an error" grep -q nowhere err

if [ -f "$model" ]; then
    export SPARKHAWK_MODEL=$model
    ln -s "${SPARKHAWK%/*}" build
    while read -r command; do
        bash -c "$command" >out 2>err
        status=$?
        check "README: $command" [ $status = 0 ]
    done < <(fenced sh)
else
    skip "the commands of README.md: $model is not there"
fi
finish
