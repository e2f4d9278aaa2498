# slurm/train.sbatch and slurm/array.sbatch on a real Slurm of four nodes: the line of README.md; what a task is given; a job
# on two nodes; jobs that are signalled, by Slurm's own timer too, preempted, out of time or on a node that dies, which all end
# with the bits of one never stopped; a job that is cancelled; an array.
. "$(dirname "$0")/../programs/lib.sh"
. "$(dirname "$0")/cluster.sh"
trap 'stop_cluster; rm -rf "$folder"' EXIT
chmod 755 "$folder"
unset SLURM_JOB_END_TIME
start_cluster "$folder/cluster" 4 32 2 || { echo "the cluster did not start"; exit 1; }
cd "$folder"
ln -s "$STRATA_SOURCE/slurm" slurm
export STRATA

# submit OPTION...: two ranks, trained into the folder $run by $keys; prints the job's id.
small=(--parsable --ntasks-per-node=2 --cpus-per-task=1)
keys=(--set train.tokens=2e6)
submit() { sbatch "${small[@]}" "$@" slurm/train.sbatch "$config" --set "run.output=$folder/$run" "${keys[@]}"; }
ranks() { pgrep -f "^$STRATA train .*run.output=$folder/$1 "; }
until_true() { for ((i = 0; i < 1200; i++)); do "$@" && return; sleep 0.1; done; echo "waited in vain: $*"; return 1; }
has_checkpoint() { ls "$folder/$1"/checkpoints/*/manifest.json >/dev/null 2>&1; }
gone() { [ -z "$(squeue -h --jobs="$1" 2>/dev/null)" ]; }
value() { scontrol -o show job "$1" | grep -o " $2=[^ ]*" | cut -d= -f2; }
same() { check cmp "$folder"/whole/saes/*/sae_weights.safetensors "$folder/$1"/saes/*/sae_weights.safetensors; }

line=$(grep '^sbatch ' "$STRATA_SOURCE/README.md")
sed "s|run: {output: .*}|run: {output: $folder/first}|" "$config" >example.yaml
readme=$(SBATCH_PARSABLE=1 bash -c "$line")

# Slurm looks twice a minute whether a signal is due, and sends one that would be due before it looks again: here 20 to 50 s
# after the start. Till then the ranks stand still behind a checkpoint. Runs do not end themselves.
run=timer
timer=$(keys+=(--set run.time_limit=null) && submit --time=1 --signal=B:USR1@10 --nodelist=n4)
until_true has_checkpoint timer
mapfile -t stopped < <(ranks timer)
kill -STOP "${stopped[@]}"
signal_is_due() { [ $((0x$(awk '/^ShdPnd:/ { print $2 }' "/proc/${stopped[0]}/status") >> 9 & 1)) -eq 1 ]; } # USR1

# Two nodes of two ranks each; few steps, since sums over four ranks round by the number of hosts.
run=nodes
few=(--set train.tokens=40960)
nodes=$(keys=("${few[@]}") && submit --nodes=2)
check mpirun -q -n 4 "$STRATA" train "$config" --quiet --set "run.output=$folder/ranks" "${few[@]}"

# What a rank is given.
cat >tell <<'TELL'
#!/bin/sh
echo "end $SLURM_JOB_END_TIME, GPU $CUDA_VISIBLE_DEVICES, cores $SLURM_CPUS_PER_TASK: $*"
TELL
chmod +x tell
told=$(STRATA=$folder/tell sbatch "${small[@]}" --gpus-per-task=1 --time=90 slurm/train.sbatch a.yaml --set b=c)
# Its first life comes to the end of its time at once.
cat >late <<LATE
#!/bin/sh
[ -n "\$SLURM_RESTART_COUNT" ] || export SLURM_JOB_END_TIME=\$(date +%s)
exec "$STRATA" "\$@"
LATE
chmod +x late
run=whole
whole=$(submit)
for job in "$readme" "$told" "$whole" "$nodes"; do until_true gone "$job"; done
check test -f runs/by-slurm/summary.json
end=$(date --date="$(value "$told" StartTime) 90 minutes" +%s)
for gpu in 0 1; do check grep -q "^end $end, GPU $gpu, cores 1: train a.yaml --set b=c --resume$" "slurm-$told.out"; done

check grep -q '4 ranks on cpu' "slurm-$nodes.out"
check close "$folder/ranks" "$folder/nodes" 1e-5

# A node, without the stopped ranks, that dies under its job, which goes on on another.
run=down
down=$(submit --exclude=n4)
until_true has_checkpoint down
dead=$(squeue -h --jobs="$down" --format=%N)
cut_power "$dead"
mapfile -t alive < <(printf 'n%d\n' 1 2 3 | grep -v "^$dead$")

# Signalled ahead of the end, as Slurm does it; near its end without a signal; preempted; cancelled.
run=signalled
signalled=$(STRATA_STAGE='$SLURM_SUBMIT_DIR/disk' submit --nodelist="${alive[0]}")
until_true has_checkpoint signalled
copy=$(stat --format=%i "$folder/disk/strata-$signalled$data")
scancel --batch --signal=USR1 "$signalled"
run=timed
timed=$(STRATA=$folder/late submit --nodelist="${alive[0]}")
run=preempted
preempted=$(submit --nodelist="${alive[1]}")
until_true has_checkpoint preempted
sbatch --partition=urgent --nodelist="${alive[1]}" --exclusive --output=/dev/null --wrap=true >/dev/null
run=cancelled
cancelled=$(submit)
until_true has_checkpoint cancelled
scancel "$cancelled"

# An array, one line of a list for each task; a task without a line says so.
cat >list <<LIST
# two datasets, say
$config --set run.output=$folder/array1 --set sae.width=64

$config --set run.output=$folder/array2 --set sae.width=96
LIST
array=$(sbatch "${small[@]}" --array=1-3 slurm/array.sbatch list --set sae.k=3)

until_true signal_is_due
kill -CONT "${stopped[@]}"
until_true grep -q 'continuing from' "slurm-$signalled.out"
check test "$(stat --format=%i "$folder/disk/strata-$signalled$data")" = "$copy" # not copied again
for job in "$down" "$signalled" "$timed" "$preempted" "$cancelled" "$array" "$timer"; do until_true gone "$job"; done

same down
check test "$(value "$down" Restarts)" -eq 1
check test "$(value "$down" BatchHost)" != "$dead"
for job in "$timer" "$signalled" "$preempted" "$timed"; do
  check grep -q 'stopped on request' "slurm-$job.out"
  check grep -q 'continuing from' "slurm-$job.out"
  check test "$(value "$job" JobState)" = COMPLETED
done
same timer
same signalled
same timed
same preempted
check test ! -e "$folder/disk/strata-$signalled"
check test "$(value "$cancelled" JobState) $(value "$cancelled" Restarts)" = 'CANCELLED 0'
check grep -q 'stopped on request' "slurm-$cancelled.out"
check test -d array1/saes/resid_post.0.batch_topk.w64.k3 -a -d array2/saes/resid_post.0.batch_topk.w96.k3
check grep -q 'list: has no line 3' "slurm-${array}_3.out"
[ $failures -eq 0 ] || { tail -n 15 slurm-*.out cluster/log/*; squeue; }
finish
