#!/usr/bin/env bash
# Standard output that is closed, full or missing, and files that appear whole or not at all.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

spark=$(golden spark)
speaking hawk

# a closed pipe: status 1, no message
closed() {
    "$SPARKHAWK" "$@" 2>err | head -c 1 >out
    status=${PIPESTATUS[0]}
    check "'$*' into a closed pipe ends with status 1" [ $status = 1 ]
    check "'$*' says nothing of it" [ ! -s err ]
}
closed run -m speaking -p Hi -n 100000000 --ignore-eos
yes hello | head -n 2000 >messages
"$SPARKHAWK" chat -m speaking -n 50 <messages 2>err | head -c 1 >out
check "a chat ends when nobody listens" [ "${PIPESTATUS[0]}" = 1 ]

# the full disk
full() {
    "$SPARKHAWK" "$@" >/dev/full 2>err </dev/null
    status=$?
    check "'$*' onto a full disk ends with status 1" [ $status = 1 ]
    check "'$*' says so in one line" one_line 'No space left'
}
if [ -c /dev/full ]; then
    full run -m speaking -p Hi -n 5
    full run -m speaking -p Hi -n 5 --json
    full run -m "$spark" --tokens "2 5"
    full tokenize -m speaking hello
    full info -m "$spark"
    full info -m "$spark" --json
    full help
    full help run
    full help --man
    full help --completion bash
    full --version
    full init
    full debug logits -m "$spark" --tokens "2 5" -o -
    full debug logits -m "$spark" --tokens "2 5" -o /dev/full
    full debug active -m "$spark" --tokens "2 5" -o /dev/full
    check "the device is still a device" [ -c /dev/full ]
else
    skip "there is no /dev/full"
fi
"$SPARKHAWK" help >&- 2>err
check "a missing standard output is a failure" [ $? = 1 ] && check "and is told" one_line 'standard output'
"$SPARKHAWK" run -m speaking -p - <&- >out 2>err
check "a missing standard input is a failure" [ $? = 1 ] && check "and is told" one_line 'standard input'

# debug writes files: whole, or nothing
"$SPARKHAWK" debug logits -m "$spark" --tokens "2 5 9" -o logits
check "logits are [3, 320] floats" [ "$(wc -c <logits)" = $((3 * 320 * 4)) ]
"$SPARKHAWK" debug logits -m "$spark" --tokens "2 5 9" -o - >out
check "-o - is standard output" cmp -s out logits
"$SPARKHAWK" debug logits -m "$spark" --tokens "$(seq 1 200)" -o many
"$SPARKHAWK" debug logits -m "$spark" --tokens "$(seq 1 100)" -o fewer
check "a longer run begins with a shorter one" cmp -s -n $((100 * 320 * 4)) many fewer
gives '"ffn": *{"0": *\[' debug active -m "$spark" --tokens "2 5 9" -o -
check "active units are JSON" valid_json out
gives '^{' debug active -m "$(golden gemma)" --tokens "2 5 9" -o -
mkdir kept && echo before >kept/logits
refuses 1 'token 999' debug logits -m "$spark" --tokens "2 5 999" -o kept/logits
check "a failure leaves the old file" [ "$(cat kept/logits)" = before ]
check "and no other" [ "$(ls -A kept)" = logits ]
refuses 1 'Is a directory' debug logits -m "$spark" --tokens 2 -o kept
refuses 1 'nowhere/logits' debug logits -m "$spark" --tokens 2 -o nowhere/logits
refuses 1 'no ids' debug logits -m "$spark" --tokens '' -o kept/new
check "nothing was made" [ "$(ls -A kept)" = logits ]

finish
