#!/usr/bin/env bash
# What the option tables refuse, and how they say so.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

refuses 2 'which subcommand' --
refuses 2 "called 'rum' (did you mean run?)" rum
refuses 2 "called 'xyzzy';" xyzzy
refuses 2 'unknown option --versoin (did you mean --version?)' --versoin
sparkhawk
check "no arguments at all are wrong usage" [ $status = 2 ]

refuses 2 'unknown option --tmep (did you mean --temp?)' run --tmep 1
refuses 2 'unknown option --max (did you mean --max-tokens?)' run --max=5
refuses 2 'unknown option --completely-different;' run --completely-different
refuses 2 'unknown option -z' run -z
refuses 2 '--json takes no value' run --json=yes
refuses 2 '--prompt needs a value' run -p
refuses 2 '--prompt needs a value' run -m model --prompt
refuses 2 "unexpected operand 'word'" run word
refuses 2 "unexpected operand '--json'" run -- --json
refuses 2 'debug wants logits|active' debug
refuses 2 "'all' is none of logits|active" debug all
refuses 2 "sparkhawk help run'" run --tmep 1

# numbers: the whole word, and in the range that the message names
for wrong in '' x 1x ' 1' 1.5 0x10 1e3 -1 1073741825 99999999999999999999; do
    refuses 2 "'$wrong' is no whole number from 0 to 1073741824" run -n "$wrong"
done
for wrong in '' x nan inf 0x1 -0.5 100.5 '1 ' 1e999 --; do
    refuses 2 "'$wrong' is no number from 0 to 100" run --temp "$wrong"
done
refuses 2 'from 0 to 1;' run --top-p 1.01
refuses 2 'from 0 to 1;' run --min-p=-0.1
refuses 2 'from 0.01 to 100;' run --repeat-penalty 0
refuses 2 'from 0 to 1024;' run --threads 1025
refuses 2 'from 0 to 9007199254740992;' run --seed 9007199254740993
refuses 2 "'q9' is none of f32|bf16|f16|q8_0|q4_0|q4_k" convert -m a -o b --type q9
refuses 2 "'f3' is none of" init gemma -o b --type f3
for wrong in 5 5= =1 x=1 -1=2 5=x 5=nan 5=inf 5=1e30 99999999999=1; do
    refuses 2 "'$wrong' is no ID=VALUE" run -m model -p x --logit-bias "$wrong"
done

SHK_CPU=abacus refuses 1 "abacus" --version

# combinations
refuses 2 'only one of' run -m model -p x -f y
refuses 2 'only one of' run -m model -p x --tokens 1
refuses 2 'what is the prompt' run -m model
refuses 2 '--chat wants' run -m model --chat --tokens 5
refuses 2 'empty string' run -m model -p x --stop ''
refuses 2 'where to' convert -m model
refuses 2 'where to' init gemma
refuses 2 'is missing' debug logits -m model --tokens 5
refuses 2 'is missing' debug logits -m model -o x
refuses 2 'named twice' info -m model model

# every form in which an option may be written reaches the same check
for form in '-n x' '-nx' '--max-tokens x' '--max-tokens=x'; do
    # shellcheck disable=SC2086
    refuses 2 "'x' is no whole number" run $form
done

# which model
refuses 1 'no model: .*make run.*/home/.cache/sparkhawk/gemma3-270m-q4_k_m.gguf' run -p x
XDG_CACHE_HOME=$work/cache refuses 1 'no model: .*/cache/sparkhawk/gemma3-270m-q4_k_m.gguf' info
SPARKHAWK_MODEL=$work/elsewhere refuses 1 'elsewhere: No such file' info
refuses 1 'nowhere.gguf: No such file' info nowhere.gguf
refuses 1 'an empty name' info -m ''
mkdir -p home/.cache/sparkhawk && : >home/.cache/sparkhawk/gemma3-270m-q4_k_m.gguf
refuses 1 'gemma3-270m-q4_k_m.gguf' info

finish
