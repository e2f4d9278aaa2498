# Several SAEs on one stream, several datasets one after the other: each SAE is the one it would be alone, whatever else
# is trained beside it, also when the run is stopped in the second dataset and continued.
. "$(dirname "$0")/lib.sh"
/usr/bin/python3 - "$data" "$folder/layers.h5" <<'PY'
import sys, h5py
with h5py.File(sys.argv[1]) as one, h5py.File(sys.argv[2], "w") as two:
    rows = one["resid_post/0"][:]
    two.create_dataset("resid_post/2", data=rows, chunks=(256, rows.shape[1]))
    two.create_dataset("resid_post/10", data=rows[::-1] * 2, chunks=(256, rows.shape[1]))
PY
layers=(--set "data.files=[$folder/layers.h5]" --set 'data.datasets=[resid_post/*]')
suite='suite=[{kind: batch_topk, width: [64, 128], k: [2, 4.5]}, {kind: topk, width: 96, k: 3}]'

check mpirun -q -n 2 "$STRATA" train "$config" --quiet "${layers[@]}" --set "$suite" --set "run.output=$folder/together"
check test "$(ls "$folder/together/saes" | wc -l)" -eq 10
check test "$(/usr/bin/python3 -c "import json; print(len(json.load(open('$folder/together/summary.json'))['saes']))")" -eq 10

alone() { # DATASET KIND WIDTH K NAME
  check mpirun -q -n 2 "$STRATA" train "$config" --quiet "${layers[@]}" --set "data.datasets=[$1]" --set "sae.kind=$2" \
    --set "sae.width=$3" --set "sae.k=$4" --set "run.output=$folder/alone.$5"
  check cmp "$folder/alone.$5/saes/$5/sae_weights.safetensors" "$folder/together/saes/$5/sae_weights.safetensors"
}
alone resid_post/2 batch_topk 64 4.5 resid_post.2.batch_topk.w64.k4.5
alone resid_post/10 batch_topk 128 2 resid_post.10.batch_topk.w128.k2
alone resid_post/10 topk 96 3 resid_post.10.topk.w96.k3

# 80 steps a dataset and a checkpoint every 20: the newest kept are those of steps 140 and 160; 140 lies in the second.
cp -r "$folder/together" "$folder/parts"
rm -rf "$folder/parts/checkpoints/step-160" "$folder"/parts/saes/resid_post.10.*
check mpirun -q -n 2 "$STRATA" train "$config" --quiet --resume "${layers[@]}" --set "$suite" --set "run.output=$folder/parts"
for sae in "$folder"/together/saes/*; do
  check cmp "$sae/sae_weights.safetensors" "$folder/parts/saes/$(basename "$sae")/sae_weights.safetensors"
done
check cmp <(sed 's/"rows_per_second":[^,]*,//' "$folder/together/metrics.jsonl") \
  <(sed 's/"rows_per_second":[^,]*,//' "$folder/parts/metrics.jsonl")

# Memory does not grow with the steps.
peak() { /usr/bin/python3 -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)' "$STRATA" train "$config" --quiet "$@"; }
short=$(peak --set "run.output=$folder/short" --set train.checkpoint_every=1000000)
long=$(peak --set "run.output=$folder/long" --set train.checkpoint_every=1000000 --set train.tokens=2e6)
check test "$long" -lt $((short + 4096)) # KiB; 49 times the steps
finish
