# Wrong inputs: one clear message, exit status 2 or 1, nothing half-written.
. "$(dirname "$0")/lib.sh"

expect 2 'nowhere.yaml' "$STRATA" train "$folder/nowhere.yaml"
printf 'run: {output: x\ndata: [' >"$folder/broken.yaml"
expect 2 'broken.yaml:[0-9]+' "$STRATA" train "$folder/broken.yaml"
expect 2 'did you mean.*tokens' train --set train.tokns=5
expect 2 'train.tokens' train --set train.tokens=forty
expect 2 'sae.k' train --set sae.k=129
expect 2 'batch_size' train --set train.batch_size=32
expect 2 'nothing-[*].h5' train --set "data.files=[$folder/nothing-*.h5]"
echo 'this is text' >"$folder/text.h5"
expect 2 'text.h5.*(HDF5|signature)' train --set "data.files=[$folder/text.h5]"
head -c 100000 "$data" >"$folder/cut.h5"
expect 2 'cut.h5.*truncated' train --set "data.files=[$folder/cut.h5]"
expect 2 'mlp_out/7' train --set 'data.datasets=[mlp_out/7]'
expect 2 'mlp_out/0: no dataset of this name to be the target of resid_post/0' train --set 'data.target=mlp_out/*'
"$STRATA" data synth --out "$folder/other.h5" --rows 5000 --n 16 --features 32 --active 2 >/dev/null 2>&1
expect 2 'other.h5' train --set "data.files=[$data,$folder/other.h5]"
expect 2 'parallel.data: groups of 3 ranks' train --set parallel.data=3
expect 2 'parallel.groups: 2 groups asked for, 1 rank is started' train --set parallel.groups=2
/usr/bin/python3 -c 'import h5py, sys; h5py.File(sys.argv[1], "w").create_dataset("resid_post/0", (0, 32), "f2", maxshape=(None, 32), chunks=(256, 32))' "$folder/empty.h5"
expect 2 'empty.h5.*no rows|empty.h5.*empty' train --set "data.files=[$folder/empty.h5]"
mkfifo "$folder/pipe.h5"
expect 2 'pipe.h5: is a pipe, socket or device' train --set "data.files=[$folder/pipe.h5]"
/usr/bin/python3 -c 'import h5py, sys; h5py.File(sys.argv[1], "w")["resid_post/0"] = h5py.SoftLink("/gone")' "$folder/link.h5"
expect 2 'link.h5: resid_post/0 is a link that leads nowhere' train --set "data.files=[$folder/link.h5]"
expect 2 'run.output:.* expected a path without' train --set 'run.output=~/run'
expect 2 'data.stage:.* expected a path without' train --set 'data.stage=$SCRATCH/x'
expect 2 'nowhere: no such folder' train --set "sae.init_from=$folder/nowhere"
expect 2 'nothing: there is no journal.jsonl' "$STRATA" status "$folder/nothing"
expect 2 'watch.*not a terminal' "$STRATA" status "$folder/nothing" --watch
check test ! -e "$folder/run"

# A folder that may not be written to, for which root has to become somebody else.
mkdir "$folder/locked"
if [ "$(id -u)" -eq 0 ]; then
  chmod 755 "$folder"
  other=(setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/tmp)
else
  chmod 555 "$folder/locked"
  other=()
fi
cp "$data" "$folder/secret.h5"
chmod 000 "$folder/secret.h5"
expect 2 'secret.h5: cannot be opened: Permission denied' "${other[@]}" "$STRATA" data info "$folder/secret.h5"
expect 2 'locked.*[Pp]ermission denied' "${other[@]}" "$STRATA" train "$config" --set "run.output=$folder/locked/run"

echo file >"$folder/occupied"
expect 2 'occupied' train --set "run.output=$folder/occupied"
expect 0 '' train
expect 2 'already holds a run' train
expect 2 'sae.k: \[.*\] then, \[.*5.*\] now' train --resume --set sae.k=5
check grep -q 'k: 4' "$folder/run/config.yaml"
mkdir "$folder/mine"
cp "$config" "$folder/mine/config.yaml"
expect 2 'holds config.yaml, which a run would replace' train --set "run.output=$folder/mine" --resume
check cmp "$config" "$folder/mine/config.yaml"

# A saved SAE that is none, or does not fit; options out of range.
sae=("$folder"/run/saes/*)
expect 2 'reads rows of 32 with 128 latents; .* has rows of 32 with 64' train --set "run.output=$folder/other" --set "sae.init_from=${sae[0]}" --set sae.width=64
check test ! -e "$folder/other"
expect 2 'nowhere: no such folder' "$STRATA" eval "$folder/nowhere" --data "$data"
expect 2 'run: has no cfg.json; expected the folder of one SAE' "$STRATA" eval "$folder/run" --data "$data"
cp -r "${sae[0]}" "$folder/sae"
sed -i 's/"strata": {/"strata": 5, "rest": {/' "$folder/sae/cfg.json"
expect 2 'sae/cfg.json: metadata.strata: expected a map' "$STRATA" eval "$folder/sae" --data "$data"
expect 2 'rows: 0 is not a number > 0' "$STRATA" eval "${sae[0]}" --data "$data" --rows 0
expect 2 'norm-limit: nan is not a number >= 0' "$STRATA" eval "${sae[0]}" --data "$data" --norm-limit nan
expect 1 'no row is left to evaluate: 100 are over the norm limit of 0.001' "$STRATA" eval "${sae[0]}" --data "$data" --rows 100 --norm-limit 0.001
expect 2 'link-rate: nan is not a number > 0' "$STRATA" plan "$config" --link-rate nan
expect 2 "'': is no name of a file" "$STRATA" data synth --out ''

# What saves no checkpoint ends at the first signal: here while it waits for its configuration.
mkfifo "$folder/slow.yaml"
exec 3<>"$folder/slow.yaml"
"$STRATA" plan "$folder/slow.yaml" 3>&- >/dev/null 2>&1 &
pid=$!
until readlink /proc/$pid/fd/* | grep -q slow.yaml; do sleep 0.01; done
kill -TERM $pid
exec 3>&-
{ wait $pid; } 2>/dev/null
check test $? -eq 143

# A chunk that no longer fits its checksum; the reader meets it while training or measuring.
cp "$data" "$folder/bad.h5"
size=$(stat -c %s "$data")
for at in 2 3 4 5 6; do
  printf '\377\377\377\377' | dd of="$folder/bad.h5" bs=1 seek=$((size * at / 8)) conv=notrunc status=none
done
expect 1 'bad.h5' train --set "data.files=[$folder/bad.h5]" --set "run.output=$folder/bad"
expect 1 'bad.h5' "$STRATA" data check "$folder/bad.h5"

# With data.skip_corrupt it is left out: the same rows and counts at one rank and at two, told once for each chunk, also by
# a run that ended at it and goes on with the key set.
skip=(--set "data.files=[$folder/bad.h5]" --set data.skip_corrupt=true --set data.scale=none --set data.max_norm_ratio=0)
corrupt_rows() { /usr/bin/python3 -c 'import json, sys; print(json.load(open(sys.argv[1] + "/summary.json"))["saes"][0]["corrupt_rows"])' "$1"; }
train "${skip[@]}" --set "run.output=$folder/skip1" 2>"$folder/log"
check test $? -eq 0
check grep -qE 'warning.*bad.h5: resid_post/0: rows [0-9]+ to [0-9]+: corrupt rows are left out' "$folder/log"
check test "$(grep -c 'corrupt rows are left out' "$folder/log")" -eq "$("$STRATA" data check --json "$folder/bad.h5" | grep -o 'cannot be read' | wc -l)"
check mpirun -q -n 2 "$STRATA" train "$config" --quiet "${skip[@]}" --set "run.output=$folder/skip2"
check test "$(corrupt_rows "$folder/skip1")" -gt 0
check test "$(corrupt_rows "$folder/skip1")" -eq "$(corrupt_rows "$folder/skip2")"
sae=("$folder"/skip1/saes/*)
expect 1 'bad.h5.*cannot be read' "$STRATA" eval "${sae[0]}" --data "$folder/bad.h5"
expect 0 'corrupt_rows +[1-9]' "$STRATA" eval "${sae[0]}" --data "$folder/bad.h5" --skip-corrupt
/usr/bin/python3 -c 'import h5py, numpy, sys; h5py.File(sys.argv[1], "w").create_dataset("resid_post/0", data=numpy.full((9000, 32), numpy.nan, "f2"))' "$folder/none.h5"
expect 1 'all [0-9]+ sampled rows are corrupt' train "${skip[@]}" --set "data.files=[$folder/none.h5]" --set "run.output=$folder/none"
expect 2 'data.skip_corrupt: .*expected true or false' train --set data.skip_corrupt=maybe

# A value that is not finite.
/usr/bin/python3 - "$folder/nan.h5" <<'PY'
import sys, h5py, numpy
rows = numpy.random.default_rng(0).standard_normal((20000, 32)).astype(numpy.float16)
rows[::50, 3] = numpy.nan
with h5py.File(sys.argv[1], "w") as file:
    file.create_dataset("resid_post/0", data=rows)
PY
expect 1 'nan.h5.*not finite|finite' train --set "data.files=[$folder/nan.h5]" --set "run.output=$folder/nan"
expect 1 'finite' mpirun -q -n 2 "$STRATA" train "$config" --quiet --set "data.files=[$folder/nan.h5]" --set "run.output=$folder/nan2"

# A full disk during a checkpoint: the one before it stays and can be continued.
if [ -n "$STRATA_SMALL_DISKS" ]; then
  mkdir "$folder/disk"
  mount -t tmpfs -o size=700k tmpfs "$folder/disk"
  train --set "run.output=$folder/disk/run" --set train.checkpoint_every=10 --set train.keep_checkpoints=9 >"$folder/log" 2>&1
  check test $? -eq 1
  check grep -q 'No space left' "$folder/log"
  check ls "$folder"/disk/run/checkpoints/step-*/manifest.json
  umount "$folder/disk"
fi
finish
