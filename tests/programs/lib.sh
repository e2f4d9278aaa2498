# Sourced by the scripts beside it: a scratch folder, a small data set, and checks that tell what they saw.
set -u
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0

# expect STATUS PATTERN COMMAND...: its exit status, and a pattern in what it prints.
expect() {
  local status=$1 pattern=$2 seen output
  shift 2
  output=$("$@" 2>&1)
  seen=$?
  if [ $seen -ne "$status" ] || ! grep -qE -- "$pattern" <<<"$output"; then
    printf 'FAILED: %s\n  expected status %s and /%s/, got status %s:\n%s\n' "$*" "$status" "$pattern" $seen "$output"
    failures=$((failures + 1))
  fi
}

check() {
  if ! "$@"; then
    printf 'FAILED: %s\n' "$*"
    failures=$((failures + 1))
  fi
}

# close RUN RUN BOUND: the losses of two runs, line by line, by their relative difference.
losses() { sed -E 's/.*"loss":([^,]*),.*/\1/' "$1/metrics.jsonl"; }
close() {
  paste <(losses "$1") <(losses "$2") |
    awk -v bound="$3" '{ d = ($1 - $2) / $1; if (d < 0) d = -d; if (d > worst) worst = d } END { print "largest relative difference", worst; exit worst > bound }'
}

finish() {
  [ $failures -eq 0 ] && echo "all as expected"
  exit $((failures > 0))
}

# As if a run of one job had ended at an earlier checkpoint: the later one, and that the job is done, are forgotten.
forget() { # OUTPUT STEP
  rm -rf "$1/checkpoints/step-$2" "$1/saes"
  sed -i '/"event":"done"/d' "$1/journal.jsonl"
}
# Files of metrics but for the speed.
metrics() { sed 's/"rows_per_second":[^,]*,//' "$1/metrics.jsonl"; }

data=$folder/acts.h5
"$STRATA" data synth --out "$data" --rows 20000 --n 32 --features 64 --active 4 >/dev/null 2>&1 || { echo "data synth failed"; exit 1; }
config=$folder/config.yaml
cat >"$config" <<YAML
run: {output: $folder/run}
data: {files: ["$data"], datasets: [resid_post/0], eval_rows: 2000, shuffle_rows: 4096}
train: {batch_size: 512, tokens: 40960, log_every: 10, checkpoint_every: 20}
sae: {kind: batch_topk, width: 128, k: 4, aux_k: 16, dead_after_tokens: 4096}
YAML
# Makes that a run on GPUs, a small one: they may be emulated.
run_on_gpus() {
  "$STRATA" data synth --out "$folder/few.h5" --rows 1000 --n 32 --features 64 --active 4 >/dev/null 2>&1
  cat >"$config" <<YAML
run: {output: $folder/run, device: cuda}
data: {files: ["$folder/few.h5"], datasets: [resid_post/0], eval_rows: 200, shuffle_rows: 512, lanes: 16}
train: {batch_size: 48, tokens: 2400, log_every: 1, checkpoint_every: 20}
sae: {kind: batch_topk, width: 64, k: 4, aux_k: 8, dead_after_tokens: 480}
YAML
}
train() { "$STRATA" train "$config" --quiet "$@"; }
