#!/usr/bin/env bash
# Sourced by the scripts beside it, which test the program that $SPARKHAWK names and write below $work alone. A script ends
# with `finish`.
# shellcheck disable=SC2034

set -u
: "${SPARKHAWK:?the path of the program}"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
# nothing of the caller's home takes part
export HOME=$work/home XDG_CACHE_HOME='' XDG_STATE_HOME='' SPARKHAWK_MODEL='' TERM=xterm LC_ALL=C.UTF-8
passed=0 failed=0 skipped=0 status=0

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed = 0 ]
    exit
}

skip() {
    echo "skipped: $*"
    skipped=$((skipped + 1))
}

# check WHAT COMMAND...: WHAT is a sentence that the command's success confirms
check() {
    local what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "${BASH_SOURCE[-1]##*/}: not true: $what"
        echo "    status $status; out: $(head -c 300 out 2>/dev/null | tr -d '\0'); err: $(head -c 300 err 2>/dev/null)"
    fi
}

# Runs the program: status, files out and err.
sparkhawk() {
    "$SPARKHAWK" "$@" >out 2>err
    status=$?
}

# one_line PATTERN: err is one line, a message that matches
one_line() { [ "$(wc -l <err)" = 1 ] && grep -q '^sparkhawk: ' err && grep -qe "$1" err; }

# refuses STATUS PATTERN ARGUMENT...: the program ends with the status, one line of message and no output
refuses() {
    local want=$1 pattern=$2
    shift 2
    sparkhawk "$@" </dev/null
    check "'$*' ends with status $want" [ $status = "$want" ]
    check "'$*' says '$pattern'" one_line "$pattern"
    check "'$*' prints nothing" [ ! -s out ]
}

# gives PATTERN ARGUMENT...: the program succeeds, and its output has a line that matches
gives() {
    local pattern=$1
    shift
    sparkhawk "$@" </dev/null
    check "'$*' succeeds" [ $status = 0 ]
    check "'$*' prints '$pattern'" grep -qe "$pattern" out
}

# ---- a terminal, through script(1) ----

# terminal ARGUMENT...: starts the program on a pseudo-terminal. What it shows is in the file `screen`.
terminal() {
    local command
    printf -v command '%q ' "$SPARKHAWK" "$@"
    rm -f keys screen
    : >screen
    mkfifo keys
    script -qefc "stty cols 200; $command" screen <keys >/dev/null 2>&1 &
    terminal_pid=$!
    exec 9>keys
}

# keys FORMAT: types it, as printf writes it
# shellcheck disable=SC2059
keys() { printf "$1" >&9; }

# shown PATTERN: waits until the screen has it, 10 seconds at most
shown() {
    for _ in $(seq 100); do
        grep -aqe "$1" screen && return 0
        sleep 0.1
    done
    echo "    the screen:" && cat -v screen
    return 1
}

# Waits for the program's end, 10 seconds at most: status, 124 if it had to be killed.
terminal_end() {
    for _ in $(seq 100); do
        kill -0 "$terminal_pid" 2>/dev/null || break
        sleep 0.1
    done
    local killed=no
    kill "$terminal_pid" 2>/dev/null && killed=yes
    exec 9>&-
    wait "$terminal_pid"
    status=$?
    [ $killed = no ] || status=124 # script(1) itself would say 0
}

# ---- models ----

golden() { echo "$root/tests/golden/$1"; }

# golden_ids NAME TENSOR: the values of an int32 tensor of a golden.safetensors, on one line
golden_ids() {
    local file n offsets
    file=$(golden "$1")/golden.safetensors
    n=$(od -An -tu8 -N8 "$file" | tr -d ' ')
    offsets=$(head -c $((8 + n)) "$file" | tail -c "$n" | tr -d ' \n' |
        sed -E "s/.*\"$2\":\{[^}]*\"data_offsets\":\[([0-9]+),([0-9]+)\].*/\1 \2/")
    # shellcheck disable=SC2086
    set -- $offsets
    od -An -v -td4 -j $((8 + n + $1)) -N $(($2 - $1)) "$file" | xargs
}

# speaking NAME: makes ./speaking, the golden model NAME with a tokenizer: Gemma's special tokens, the bytes, and a space
speaking() {
    local i names='"<pad>" "<eos>" "<bos>" "<unk>" "<start_of_turn>" "<end_of_turn>"' pieces='' added='' id=0 name
    mkdir speaking
    cp "$(golden "$1")"/{config.json,model.safetensors} speaking/
    for i in $(seq 0 255); do printf -v name '"<0x%02X>"' "$i" && names="$names $name"; done
    names="$names \"▁\""
    for i in $(seq 263 319); do names="$names \"<unused$i>\""; done
    for name in $names; do
        pieces="$pieces${pieces:+,}$name:$id"
        [ $id -ge 6 ] || added="$added${added:+,}{\"id\":$id,\"content\":$name,\"special\":true}"
        id=$((id + 1))
    done
    cat >speaking/tokenizer.json <<END
{"added_tokens":[$added],
 "normalizer":{"type":"Replace","pattern":{"String":" "},"content":"▁"},
 "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<bos>"}},{"Sequence":{"id":"A"}}]},
 "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
                                          {"type":"ByteFallback"},{"type":"Fuse"}]},
 "model":{"type":"BPE","byte_fallback":true,"fuse_unk":true,"unk_token":"<unk>","vocab":{$pieces},"merges":[]}}
END
}

# valid_json FILE: it is one JSON text; true where nothing is installed that could tell
valid_json() {
    if command -v jq >/dev/null; then jq -e . "$1" >/dev/null
    elif command -v python3 >/dev/null; then python3 -c 'import json, sys; json.load(open(sys.argv[1], encoding="utf-8"))' "$1"
    fi
}
