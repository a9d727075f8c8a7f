#!/usr/bin/env bash
# sparkhawk bench: what it counts and what it prints; never how fast anything is.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

spark=$(golden spark) griffin=$(golden griffin)
quick=(--prefill 4 -n 3 -r 2)

# number KEY: the values of a key in out, one a line
number() { grep -oE "\"$1\": *[0-9.e+-]+" out | sed 's/.*: *//'; }
# less A B: as numbers
less() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a < b) }'; }

sparkhawk bench -m "$spark" "${quick[@]}" --json --depths "0 40" --batch "1 3" --threads "1 2"
check "bench succeeds" [ $status = 0 ]
check "its JSON is valid" valid_json out
check "there is a row for each combination" [ "$(number tok_s | wc -l)" = 12 ]
for key in bandwidth_gb_s gflop_s; do check "$key is given once" [ "$(number $key | wc -l)" = 1 ]; done
for key in depth threads batch tok_s_min tok_s_max bytes_per_token flops_per_token share; do
    check "every row has $key" [ "$(number $key | wc -l)" = 12 ]
done

# bytes and operations are counted: they do not change from run to run, and skipped rows are not among them
bytes() { some_bytes "$@" --all-logits; }
some_bytes() { sparkhawk bench -m "$1" --prefill 0 -n 3 -r 1 --threads 1 --json "${@:2}" && number bytes_per_token; }
skipping=$(bytes "$spark")
check "counts repeat" [ "$skipping" = "$(bytes "$spark")" ]
check "skipping reads less than --dense" less "$skipping" "$(bytes "$spark" --dense)"
check "a deeper state is more to read" less "$skipping" "$(bytes "$spark" --depths 60)"
check "a batch shares the weights" less "$(bytes "$griffin" --batch 4)" "$(bytes "$griffin")"
check "a greedy choice reads less than all logits" less "$(some_bytes "$griffin")" "$(bytes "$griffin")"
near=$(bytes "$griffin" --depths 1000) far=$(bytes "$griffin" --depths 1000000)
check "a recurrent model reads the same at any depth" [ "$near" = "$far" ]

sparkhawk bench -m "$spark" --vs "$griffin" "${quick[@]}" --json
for key in ratio ratio_min ratio_max; do check "--vs gives $key" [ "$(number $key | wc -l)" = 2 ]; done
gives 'decode .*%.*(.* to .*)' bench -m "$spark" --vs "$griffin" "${quick[@]}"

refuses 1 'threads' bench -m "$spark" --threads ''
refuses 1 'depths' bench -m "$spark" --depths -1
refuses 1 'batch.*0' bench -m "$spark" --batch 0
refuses 1 'missing' bench -m "$spark" --vs missing "${quick[@]}"
finish
