# A run whose time is over saves a checkpoint after the step under way and ends with status 75, on all ranks also where
# one alone knows of the limit; continued, it gives the bits of a run without limit.
. "$(dirname "$0")/lib.sh"
unset SLURM_JOB_END_TIME
run() { train --set "run.output=$folder/$out" "$@"; }
steps() { ls "$folder/$out/checkpoints" | tr '\n' ' '; }

out=whole
check run
out=parts
expect 75 'time limit.* step 1 of 80' run --set run.time_limit=1
expect 75 'step 2 of 80' run --resume --set run.time_limit=0:01
expect 75 'step 3 of 80' env SLURM_JOB_END_TIME="$(date +%s)" "$STRATA" train "$config" --quiet --resume --set "run.output=$folder/parts"
check test "$(steps)" = 'step-2 step-3 '
SLURM_JOB_END_TIME=$(date +%s) check run --resume --set run.time_limit=null
check cmp "$folder"/whole/saes/*/sae_weights.safetensors "$folder"/parts/saes/*/sae_weights.safetensors

expect 75 'step 1 of 80' mpirun -q -n 1 "$STRATA" train "$config" --quiet --set "run.output=$folder/two" : \
  -n 1 env SLURM_JOB_END_TIME="$(date +%s)" "$STRATA" train "$config" --quiet --set "run.output=$folder/two"

out=long
check run --set run.time_limit=1-00:00:00
finish
