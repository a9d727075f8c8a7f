#!/usr/bin/env bash
# sparkhawk chat: through a pipe and on a terminal.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

speaking spark
ids() { "$SPARKHAWK" tokenize -m speaking --special --no-bos "$1"; }
# chat FORMAT ARGUMENT...: a chat in which these lines, as printf writes them, come through standard input
# shellcheck disable=SC2059
chat() {
    printf "$1" >typed
    shift
    "$SPARKHAWK" chat -m speaking --temp 0 -n 12 "$@" <typed >out 2>err
    status=$?
}
opening=$(ids $'<start_of_turn>model\n')
turn() { echo "$(ids $'<start_of_turn>user\n'"$1"$'<end_of_turn>\n') $opening"; }
answer() { sed -E 's/.*"tokens":\[([^]]*)\].*/\1/; s/,/ /g' out; }

# two turns are what one run over all of their tokens gives: the session goes on, and nothing is read twice or left out
first="2 $(turn Hello)"
sparkhawk run -m speaking --tokens "$first" -n 12 --json
reply=$(answer)
grep -q '"stop":"end"' out && reply=${reply% *}
sparkhawk run -m speaking --tokens "$first" -n 12 -q && cp out one
sparkhawk run -m speaking --tokens "$first $reply 5 $(ids $'\n') $(turn Again)" -n 12 -q && cp out two
cat one two >both
chat 'Hello\nAgain\n'
check "a chat succeeds" [ $status = 0 ]
check "two turns are one conversation" cmp -s out both
chat 'Hello\n/save state\n/clear\nHello\n/load state\nAgain\n'
check "/save, /clear and /load succeed" [ $status = 0 ]
cat one one two >thrice
check "/clear starts anew, /load returns" cmp -s out thrice
chat 'Again\n' --load state
check "--load continues in another process" cmp -s out two
sparkhawk run -m speaking --chat -p Again --state-load state -n 12 -q
check "and so does run --chat --state-load" cmp -s out two

chat 'one\\\ntwo\n' && cp out joined
sparkhawk run -m speaking --chat -p $'one\ntwo' -n 12 -q
check "a backslash continues a message" cmp -s out joined
chat 'one' && cp out cut
chat 'one\n'
check "the last line needs no newline" cmp -s out cut
chat '\n\none\n\n'
check "empty lines are nothing" cmp -s out cut
chat ' /one\n'
check "a space makes a message of a slash" [ $status = 0 -a -s out ]
chat 'one\n' --system 'Be brief.' && cp out brief
sparkhawk run -m speaking --chat -p $'Be brief.\n\none' -n 12 -q
check "a system text comes before the first message" cmp -s out brief

chat '/quit\none\n'
check "/quit leaves" [ $status = 0 -a ! -s out ]
chat '/help\n'
check "/help lists the commands" [ "$(grep -cE '^/(save|load|clear|help|quit) ' out)" = 5 ]
while IFS='|' read -r wrong message; do
    chat "$wrong\none\n"
    check "'$wrong' makes a piped chat fail" [ $status = 1 ]
    check "'$wrong' is told in one line" one_line "$message"
    check "after '$wrong' the chat goes on" cmp -s out cut
done <<'END'
/nothing|/nothing is no command
/save|/save wants a file
/load|/load wants a file
/clear now|/clear takes nothing more
/load missing|missing: No such file
/save nowhere/state|nowhere/state
END
printf 'one\n' | "$SPARKHAWK" chat -m "$(golden spark)" >out 2>err
check "a model without a tokenizer cannot chat" one_line 'no tokenizer'
yes '0123456789' | head -n 300 | "$SPARKHAWK" chat -m speaking --temp 0 -n 4 --context 200 >out 2>err
check "a full context is told, turn by turn" grep -q 'the context of 200 has room' err

# on a terminal
if ! command -v script >/dev/null; then
    skip "script is not installed"
    finish
fi
export XDG_STATE_HOME=$work/home/state
terminal chat -m speaking --temp 0 -n 12
check "a greeting names the help" shown 'Ctrl-D leaves'
keys '/help\r'
check "a command runs" shown 'start anew'
keys 'first words'
check "a line can be typed" shown 'first words'
keys '\003'
keys 'second\\\r'
check "a backslash asks for more" shown '^\.\.\. '
keys 'third'
check "and the second line can be typed" shown '^\.\.\. third'
keys '\003'
keys '/save terminal.state\r\004'
terminal_end
check "Ctrl-C clears lines, Ctrl-D leaves" [ $status = 0 -a -f terminal.state ]
chat '/save piped.state\n'
check "and no message was sent" cmp -s terminal.state piped.state
history=$XDG_STATE_HOME/sparkhawk/history
check "the history is kept" grep -q 'save' "$history"
check "and is private" [ "$(stat -c %a "$history")" = 600 ]
check "and so is its folder" [ "$(stat -c %a "$(dirname "$history")")" = 700 ]

terminal chat -m speaking --temp 0 -n 12
shown 'Ctrl-D leaves'
keys '\020'
check "the history comes back" shown '> /save terminal.state'
keys '\025/save closed.state\r'
for _ in $(seq 100); do [ -f closed.state ] && break || sleep 0.1; done
kill "$terminal_pid" # and with it the program
terminal_end
check "a program that is ended has kept its history" grep -q 'closed' "$history"
terminal chat -m speaking --temp 0 -n 12
shown 'Ctrl-D leaves'
keys '\025X\177Hello\r'
check "lines can be edited" shown Hello
check "and are answered" shown "$(grep -aoE '[a-z<>0-9]{4,}' one | head -n 1)"
keys '/quit\r'
terminal_end
check "/quit leaves the terminal" [ $status = 0 ]

long_answer() { # of N tokens, once it has begun
    terminal chat -m speaking -t 1 --temp 0 --logit-bias 1=-inf --logit-bias 5=-inf -n "$1" --context 10000000
    shown 'Ctrl-D leaves'
    keys 'Hello\r'
    shown '<unused'
}
long_answer 1000000
keys '\003'
check "Ctrl-C stops an answer" shown '^> $'
keys '/save stopped.state\r/quit\r'
terminal_end
check "and not the program" [ $status = 0 -a -s stopped.state ]
long_answer 10000
keys '/save typed.state\r\004'
terminal_end
check "what is typed during an answer waits for its end, Ctrl-D too" [ $status = 0 -a -s typed.state ]

finish
