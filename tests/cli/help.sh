#!/usr/bin/env bash
# Help, the manual page and completion are made from the option tables, so they must agree with them and with each other.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

gives '^usage: sparkhawk SUBCOMMAND' help
cp out all
gives '^usage: sparkhawk SUBCOMMAND' --help
check "--help and help are the same" cmp -s out all
gives '^sparkhawk [0-9]' --version
gives '^sparkhawk [0-9]' -V
check "--version is one line" [ "$(wc -l <out)" = 1 ]
refuses 2 "called 'nothing'" help nothing
refuses 2 "is none of bash|zsh|fish" help --completion csh

gives '^\.TH SPARKHAWK 1' help --man
check "docs/sparkhawk.1 is what 'sparkhawk help --man' prints" cmp -s out "$root/docs/sparkhawk.1"
cp out page
for shell in bash zsh fish; do
    gives sparkhawk help --completion $shell
    cp out completion.$shell
done

subcommands=$(awk '/^  [a-z]/ { print $1 }' all)
check "there are subcommands" [ "$(wc -w <<<"$subcommands")" -ge 8 ]
for subcommand in $subcommands; do
    gives "^usage: sparkhawk $subcommand" help "$subcommand"
    cp out text
    gives "^usage: sparkhawk $subcommand" "$subcommand" --help
    check "help $subcommand and $subcommand --help are the same" cmp -s out text
    check "the manual has $subcommand" grep -qx "\.SS $subcommand" page
    check "no line of help $subcommand is long" [ "$(wc -L <text)" -le 100 ]
    sed -n "/^\.SS $subcommand\$/,/^\.S/p" page >section
    for option in $(grep -oE '^  (-.,|   ) --[a-z0-9-]+' text | grep -oE -- '--[a-z0-9-]+'); do
        check "the program knows the $option of $subcommand" \
            [ "$("$SPARKHAWK" "$subcommand" "$option" 2>&1 </dev/null | grep -c 'unknown option')" = 0 ]
        [ "$option" = --help ] || check "the manual has $option of $subcommand" grep -qF -- "${option//-/\\-}" section
        for shell in bash zsh; do
            check "$shell completes $option" grep -qe "$option\b" completion.$shell
        done
        check "fish completes $option of $subcommand" grep -qe "_from $subcommand' -l ${option#--}\b" completion.fish
    done
done

# what shells make of it
complete_bash() {
    bash -c '. ./completion.bash; compopt() { :; }
             COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sparkhawk; echo "${COMPREPLY[*]}"' - "$@"
}
: >weights.gguf
check "bash completes a subcommand" [ "$(complete_bash sparkhawk tok)" = tokenize ]
check "bash completes an option" [ "$(complete_bash sparkhawk run --max)" = --max-tokens ]
check "bash completes a choice" [ "$(complete_bash sparkhawk convert --type q8)" = q8_0 ]
check "bash completes a file" [ "$(complete_bash sparkhawk run -m wei)" = weights.gguf ]
check "bash completes an operand" [ "$(complete_bash sparkhawk debug act)" = active ]
check "bash completes an operand that is a file" [ "$(complete_bash sparkhawk info wei)" = weights.gguf ]
check "bash offers nothing for a number" [ -z "$(complete_bash sparkhawk run --temp '')" ]
check "bash reads its completion" bash -n completion.bash
if command -v zsh >/dev/null; then check "zsh reads its completion" zsh -n completion.zsh; else skip "zsh is not installed"; fi
if command -v fish >/dev/null; then
    complete_fish() { fish --no-config -c "source completion.fish; complete -C'$1'" 2>/dev/null | cut -f 1; }
    check "fish completes a subcommand" [ "$(complete_fish 'sparkhawk tok')" = tokenize ]
    check "fish completes an option" [ "$(complete_fish 'sparkhawk run --max')" = --max-tokens ]
    check "fish completes a choice" [ "$(complete_fish 'sparkhawk convert --type q8')" = q8_0 ]
    check "fish completes a file" [ "$(complete_fish 'sparkhawk run -m wei')" = weights.gguf ]
else
    skip "fish is not installed"
fi
if command -v groff >/dev/null; then
    check "groff has nothing to say about the manual" [ -z "$(groff -ww -man -Tutf8 page 2>&1 >/dev/null)" ]
else
    skip "groff is not installed"
fi

finish
