# A stopped and resumed run gives the bits of one never stopped; at another rank count it goes on with the same rows.
. "$(dirname "$0")/lib.sh"

same_run() {
  cmp "$1"/saes/*/sae_weights.safetensors "$2"/saes/*/sae_weights.safetensors &&
    diff <(sed 's/"rows_per_second":[^,]*,//' "$1/metrics.jsonl") <(sed 's/"rows_per_second":[^,]*,//' "$2/metrics.jsonl")
}

for ranks in 1 2; do
  run() { mpirun -q -n $ranks "$STRATA" train "$config" --quiet "$@"; }
  check run --set "run.output=$folder/whole$ranks"
  # Stopped by a signal as soon as the first checkpoint stands; USR1 reaches all ranks through mpirun.
  mpirun -q -n $ranks "$STRATA" train "$config" --quiet --set "run.output=$folder/parts$ranks" &
  pid=$!
  while kill -0 $pid 2>/dev/null && ! ls "$folder/parts$ranks"/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.01; done
  kill -USR1 $pid 2>/dev/null
  wait $pid
  status=$?
  check test $status -eq 75 -o $status -eq 0
  rm -rf "$folder/parts$ranks/checkpoints/step-80" "$folder/parts$ranks/saes" # as if it had ended before
  check run --resume --set "run.output=$folder/parts$ranks"
  check same_run "$folder/whole$ranks" "$folder/parts$ranks"
done

# From one rank to three, in the middle.
cp -r "$folder/whole1" "$folder/moved"
rm -rf "$folder/moved/checkpoints/step-80" "$folder/moved/saes"
check mpirun -q -n 3 "$STRATA" train "$config" --quiet --resume --set "run.output=$folder/moved"
check close "$folder/whole1" "$folder/moved" 1e-4

# The first 50 steps agree at any rank count.
for ranks in 1 2 3 4; do
  check mpirun -q -n $ranks "$STRATA" train "$config" --quiet --set "run.output=$folder/ranks$ranks" --set train.tokens=25600 --set train.log_every=1
  check close "$folder/ranks1" "$folder/ranks$ranks" 1e-5
done

# One rank dying ends all.
mpirun -q -n 2 "$STRATA" train "$config" --quiet --set "run.output=$folder/killed" --set train.tokens=100e6 2>/dev/null &
pid=$!
while ! ls "$folder"/killed/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.05; done
pkill -KILL -n -f "run.output=$folder/killed" # the newest: a rank
wait $pid
check test $? -ne 0
check test -z "$(pgrep -f "strata train .*run.output=$folder/killed")"
finish
