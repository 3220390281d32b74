#!/bin/sh
# Few-shot fine-tuning as in PMF (Hu et al. 2022), which TinyTrain adopts: prototypes of the support,
# augmented views of it as queries, 40 passes with one Adam step each, full batch.
#
#   sh examples/few-shot.sh DATA OUT
#
# DATA  a folder with a folder of images for each class, or a Parquet file
# OUT   where the results go; there must be nothing of that name yet
#
# Three runs on the same images: prototypes detached; with gradients through prototypes, as PMF has
# them; and detached, with four views of each image whose latents are kept, for less than half of
# the work.  What Adam and the sums of gradients keep beside each weight has 16 bits, and TinyTrain
# chooses so many weights that the program fits into 256 KiB of RAM (without stack).
# MODEL, METHOD, WAYS, SHOTS, LR, SEED, STATE_BITS and SRAM may be set.
set -eu
[ $# -eq 2 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
data=$1 out=$2
mkdir -p "$(dirname "$out")"
mkdir "$out"

run() {
    name=$1
    shift
    echo "== $name" >&2
    ${KILOGRAD:-kilograd} adapt "$data" --model "${MODEL:-mcunet-5fps}" --method "${METHOD:-tinytrain}" \
        --head proto --optimizer adam --iterations 40 --lr "${LR:-0.001}" --accumulate 1000 \
        --state-bits "${STATE_BITS:-16}" --sram "${SRAM:-256K}" \
        --ways "${WAYS:-5}" --shots "${SHOTS:-5}" --seed "${SEED:-0}" "$@" --out "$out/$name"
}

run detached
run exact --prototype-gradients
run cached --cache 4
