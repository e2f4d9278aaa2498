# A disk that is full, or cannot be written to any more, in mid-run: status 1 and one error, which names the file; continued when
# there is room again, the run is as if nothing had happened. Then what `strata status` says of folders that hold no run.
. "$(dirname "$0")/lib.sh"
run_on() { # OUTPUT ARGUMENT...
  local output=$1
  shift
  mpirun -q -n 2 "$STRATA" train "$config" --set train.tokens=1e6 --set train.checkpoint_every=100 --set "run.output=$output" "$@"
}
same() { # RUN OTHER
  check cmp "$1"/saes/*/sae_weights.safetensors "$2"/saes/*/sae_weights.safetensors
  check cmp <(metrics "$1") <(metrics "$2")
}
# spoil RUN PATTERN COMMAND...: the run, while which the command befalls its disk behind a checkpoint.
spoil() {
  local run=$1 pattern=$2
  shift 2
  run_on "$run" >"$folder/log" 2>&1 &
  local pid=$!
  while kill -0 $pid 2>/dev/null && ! ls "$run"/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.01; done
  "$@" >/dev/null 2>&1
  wait $pid
  check test $? -eq 1
  check test "$(grep -c 'error: ' "$folder/log")" -eq 1
  check grep -qE "error: $run/.*$pattern" "$folder/log"
  expect 0 '^.*: (failed|running): 0 jobs done' "$STRATA" status "$run"
}

check run_on "$folder/whole" --quiet
if [ -n "$STRATA_SMALL_DISKS" ]; then
  mkdir "$folder/small"
  mount -t tmpfs -o size=3m tmpfs "$folder/small"
  trap 'umount "$folder/small"; rm -rf "$folder"' EXIT
  spoil "$folder/small/run" 'No space left on device' dd if=/dev/zero of="$folder/small/fill" bs=64k
  check test -z "$(find "$folder/small" -name '*.tmp')"
  rm "$folder/small/fill"
  check run_on "$folder/small/run" --quiet --resume
  same "$folder/whole" "$folder/small/run"
  check test -z "$(grep -vhE '^[0-9T:.-]{23}Z (info|warning|error): ' "$folder"/small/run/logs/*.log | grep -E '(info|warning): .*(info|warning): ')"
fi
# What was not synced when the file system gave up is gone, as with the power of a host.
truncate --size=16M "$folder/image"
if [ -n "$STRATA_LOOP_DISKS" ]; then
  mkdir "$folder/disk"
  mkfs.ext4 -q "$folder/image"
  mount -o loop "$folder/image" "$folder/disk"
  trap 'umount "$folder/small" "$folder/disk" 2>/dev/null; rm -rf "$folder"' EXIT
  spoil "$folder/disk/run" 'Read-only file system' mount -o remount,abort "$folder/disk"
  expect 2 'disk/run.*Read-only file system' run_on "$folder/disk/run" --resume
  umount "$folder/disk"
  fsck.ext4 -p "$folder/image" >/dev/null
  mount -o loop "$folder/image" "$folder/disk"
  check run_on "$folder/disk/run" --quiet --resume
  same "$folder/whole" "$folder/disk/run"
fi

expect 2 'nowhere: there is no journal.jsonl; name the output folder' "$STRATA" status "$folder/nowhere"
expect 2 'config.yaml: there is no journal.jsonl' "$STRATA" status "$config"
mkdir "$folder/empty"
: >"$folder/empty/journal.jsonl"
expect 2 'empty/journal.jsonl: cannot be read, or names no jobs' "$STRATA" status "$folder/empty"
echo '{"event":"jobs","jobs":7}' >"$folder/empty/journal.jsonl"
expect 1 'empty/journal.jsonl: cannot be understood' "$STRATA" status "$folder/empty"
expect 2 '--watch: standard output is not a terminal' "$STRATA" status --watch "$folder/whole"
finish
