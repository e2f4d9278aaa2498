# A stopped and resumed run gives the bits of one never stopped; at another rank count it goes on with the same rows.
. "$(dirname "$0")/lib.sh"

same_run() {
  cmp "$1"/saes/*/sae_weights.safetensors "$2"/saes/*/sae_weights.safetensors &&
    diff <(metrics "$1") <(metrics "$2")
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
  forget "$folder/parts$ranks" 80
  check run --resume --set "run.output=$folder/parts$ranks"
  check same_run "$folder/whole$ranks" "$folder/parts$ranks"
done

# A file that is gone or cut.
cp -r "$folder/whole1" "$folder/cut"
forget "$folder/cut" 80
share=("$folder"/cut/checkpoints/step-60/*.second_moment.*)
truncate --size=1000 "${share[0]}"
expect 1 'second_moment.*does not fit a file of 1000; .*; delete the folder .*/step-60 to continue' run --resume --set "run.output=$folder/cut"
rm "${share[0]}"
expect 1 'second_moment.*cannot read: No such file.*; delete the folder .*/step-60 to continue' run --resume --set "run.output=$folder/cut"

# From one rank to three, in the middle.
cp -r "$folder/whole1" "$folder/moved"
forget "$folder/moved" 80
check mpirun -q -n 3 "$STRATA" train "$config" --quiet --resume --set "run.output=$folder/moved"
check close "$folder/whole1" "$folder/moved" 1e-4

# The first 50 steps agree at any rank count.
for ranks in 1 2 3 4; do
  check mpirun -q -n $ranks "$STRATA" train "$config" --quiet --set "run.output=$folder/ranks$ranks" --set train.tokens=25600 --set train.log_every=1
  check close "$folder/ranks1" "$folder/ranks$ranks" 1e-5
done

# A finished run has nothing left to do.
before=$(ls -l --time-style=full-iso "$folder"/whole1/saes/*/*)
check "$STRATA" train "$config" --quiet --resume --set "run.output=$folder/whole1"
check test "$before" = "$(ls -l --time-style=full-iso "$folder"/whole1/saes/*/*)"

# A chunk that is damaged after step 20. The run that ends at it and goes on with data.skip_corrupt is the one that had it set.
cp "$data" "$folder/later.h5"
later() { train --set "data.files=[$folder/later.h5]" --set train.checkpoint_every=4 --set train.keep_checkpoints=99 "$@"; }
check later --set "run.output=$folder/ended"
for step in $(seq 24 4 80); do forget "$folder/ended" $step; done
cp -r "$folder/ended" "$folder/skipped"
printf '\377\377\377\377' | dd of="$folder/later.h5" bs=1 seek=$(($(stat -c %s "$data") / 2)) conv=notrunc status=none
expect 1 'later.h5: resid_post/0: rows .* cannot be read' later --resume --set "run.output=$folder/ended"
expect 0 'corrupt rows are left out' later --resume --set "run.output=$folder/ended" --set data.skip_corrupt=true
expect 0 'corrupt rows are left out' later --resume --set "run.output=$folder/skipped" --set data.skip_corrupt=true
check same_run "$folder/ended" "$folder/skipped"
check grep -q '"corrupt_rows":[1-9]' "$folder/skipped/metrics.jsonl"

# One rank dying ends all.
mpirun -q -n 2 "$STRATA" train "$config" --quiet --set "run.output=$folder/killed" --set train.tokens=100e6 2>/dev/null &
pid=$!
while ! ls "$folder"/killed/checkpoints/*/manifest.json >/dev/null 2>&1; do sleep 0.05; done
# Nobody else may write there, until it is dead.
again=(train --set "run.output=$folder/killed" --set train.tokens=100e6)
expect 2 'another run is writing to' "${again[@]}"
expect 2 'another run is writing to' "${again[@]}" --resume
pkill -KILL -n -f "run.output=$folder/killed" # the newest: a rank
wait $pid
check test $? -ne 0
check test -z "$(pgrep -f "strata train .*run.output=$folder/killed")"
expect 2 'already holds a run; continue it with --resume' "${again[@]}"
expect 75 'a checkpoint is saved' "${again[@]}" --resume --set run.time_limit=1

# So does one that is stopped, and the message names it and what it was doing.
mpirun -q -n 2 "$STRATA" train "$config" --quiet --set "run.output=$folder/silent" --set train.tokens=100e6 --set run.watchdog=2 2>"$folder/log" &
pid=$!
# Behind step 1000: a sign of life, five a second, has told of steps by then.
while ! ls "$folder"/silent/checkpoints/step-[0-9][0-9][0-9][0-9]/manifest.json >/dev/null 2>&1; do sleep 0.05; done
stopped=$(pgrep -n -f "run.output=$folder/silent")
kill -STOP "$stopped"
wait $pid
check test $? -eq 1
check test -z "$(pgrep -f "strata train .*run.output=$folder/silent")"
check grep -qE "rank [01] has not been heard of for [0-9]+ s \(last seen: .*process $stopped, in .*, step [0-9]+\)" "$folder/log"
check test "$(grep -c 'has not been heard of' "$folder/log")" -eq 1
finish
