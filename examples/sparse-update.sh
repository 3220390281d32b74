#!/bin/sh
# Fine-tuning as in "On-Device Training Under 256KB Memory" (arXiv:2206.15472), tables S1 to S4 of its
# supplement: a linear float32 head, SGD, a warm-up, a cosine.
#
#   sh examples/sparse-update.sh TABLE DATA OUT
#
# TABLE  s1  MobileNetV2-0.35, the update plan of 100 KB, three seeds
#        s2  MCUNet, the last two blocks (both rows: a float32 head, an int8 head)
#        s3  MCUNet, the last two blocks, batches of 1 and of 128, without and with momentum
#        s4  MCUNet, a sparse update plan, with and without accumulated gradients (32, 16 and 8 bits);
#            made for two classes
# DATA   a folder with a folder of images for each class, or a Parquet file
# OUT    where the results go; there must be nothing of that name yet
#
# The paper trains on whole data sets for 50 passes after 5 of warm-up (10 after 1 for VWW), at a rate
# around 0.1 for 256 images at once and in proportion for fewer; it searches that rate.  Smaller tasks
# want a higher one, and momentum a tenth of it.  For your task set WAYS, SHOTS, QUERIES,
# ITERATIONS, WARMUP, LR, LR128, and LRM, LRM128 for momentum.
set -eu
[ $# -eq 3 ] || { sed -n '2,20s/^# \{0,1\}//p' "$0" >&2; exit 2; }
table=$1 data=$2 out=$3
case $table in
s1 | s2 | s3 | s4) ;;
*)
    echo "error: no table $table; there are s1, s2, s3, s4" >&2
    exit 2
    ;;
esac
mkdir -p "$(dirname "$out")"
mkdir "$out"

# run NAME OPTION...: one line of the table
run() {
    name=$1
    shift
    echo "== $name" >&2
    ${KILOGRAD:-kilograd} adapt "$data" --optimizer sgd "$@" --head "${HEAD:-linear}" \
        --ways "${WAYS:-10}" --shots "${SHOTS:-20}" --queries "${QUERIES:-20}" \
        --iterations "${ITERATIONS:-55}" --warmup "${WARMUP:-5}" --lr "${LR:-0.0004}" \
        --out "$out/$name"
}

case $table in
s1)
    for seed in 0 1 2; do
        run "seed-$seed" --model mbv2-w0.35 --method sparse-99kb --seed "$seed"
    done
    ;;
s2)
    run float-head --model mcunet-5fps --method last:6
    HEAD=int8 run int8-head --model mcunet-5fps --method last:6
    ;;
s3)
    run batch-1 --model mcunet-5fps --method last:6
    # one update for 128 images: 128 times the rate
    LR=${LR128:-0.05} run batch-128 --model mcunet-5fps --method last:6 --accumulate 128
    LR=${LRM:-0.00004} run batch-1-momentum --model mcunet-5fps --method last:6 \
        --optimizer momentum --state-bits 16
    LR=${LRM128:-0.005} run batch-128-momentum --model mcunet-5fps --method last:6 --accumulate 128 \
        --optimizer momentum --state-bits 16
    ;;
s4)
    run each --model mcunet-5fps --method sparse-148kb
    for bits in 32 16 8; do
        LR=${LR128:-0.05} run "accumulated-$bits" --model mcunet-5fps --method sparse-148kb \
            --accumulate 128 --state-bits "$bits"
    done
    ;;
esac
