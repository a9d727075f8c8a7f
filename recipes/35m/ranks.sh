#!/bin/bash
# recipes/35m/ranks.sh SPARKHAWK WORK FILE...: do one process and several take the same steps? Of dense, spark, griffin and sparkhawk
# (31M parameters each), in f32 and in bf16, trains WORK/KIND-COMPUTE-one and, with the same sequences in each step, -ranks (RANKS=2
# processes of mpirun), and for what rounding alone does -parts and -more, one process that adds a step's gradients up in as many
# parts as there are ranks, and in twice as many. Then tools/compare_runs.py --apart. DEVICE=cuda for a GPU each (SPARKHAWK is then
# build/cuda/mpi/sparkhawk, of `make CUDA=1 NCCL=1`; else build/mpi/sparkhawk, of `make MPI=1`). Run again, it goes on.
set -eu
sparkhawk=$(realpath "$1") work=$(realpath -m "$2") recipe=$(dirname "$(realpath "$0")") ranks=${RANKS:-2}
shift 2
mkdir -p "$work"
[ -d "$work/shards" ] || "$sparkhawk" tokenize -m "$recipe/../../models/sparkhawk-stories-q4_0.gguf" --held-out 20 \
    --shards "$work/shards" "$@"
cd "$work"
number() { sed -nE "s/.*\"$1\": ([0-9]+).*/\1/p" "$recipe/ranks.json"; }
batch=$(number batch) evals=$(number eval_batches)
# run NAME PROCESSES PARTS: checkpoints do not stay
run() {
    local launcher=()
    [ "$2" = 1 ] || launcher=(mpirun -np "$2")
    [ -d "$1" ] || {
        "${launcher[@]}" "$sparkhawk" train "$recipe/ranks.json" --set model="start-$kind" --set out="$1.part" --set compute="$compute" \
            --set device="${DEVICE:-cpu}" --set batch=$((batch / $3)) --set accumulate="$3" --set eval_batches=$((evals * $3)) -q
        rm -r "$1.part"/step-*
        mv "$1.part" "$1"
    }
}
for kind in dense spark griffin sparkhawk; do
    sed 's/"vocab_size": 16384/"vocab_size": 8192/' "$recipe/$kind.json" >"$kind.json"
    [ -d "start-$kind" ] || "$sparkhawk" init "$kind.json" -o "start-$kind" --type f32
    for compute in f32 bf16; do
        run "$kind-$compute-one" 1 1
        run "$kind-$compute-ranks" "$ranks" 1
        run "$kind-$compute-parts" 1 "$ranks"
        run "$kind-$compute-more" 1 $((2 * ranks))
    done
done
for kind in dense spark griffin sparkhawk; do
    for compute in f32 bf16; do
        name=$kind-$compute
        "$recipe/../../tools/compare_runs.py" --apart "$name-one" "$name-ranks" "$name-parts" "$name-more"
        "$recipe/../../tools/compare_runs.py" --apart "$name-parts" "$name-ranks"
    done
done
