# slurm/train.sbatch and slurm/array.sbatch on a real Slurm of three nodes: the line of README.md; what a task is given; jobs
# that are signalled, preempted, out of time or on a node that dies, which all end with the bits of one never stopped; a
# job that is cancelled; an array.
. "$(dirname "$0")/../programs/lib.sh"
. "$(dirname "$0")/cluster.sh"
trap 'stop_cluster; rm -rf "$folder"' EXIT
chmod 755 "$folder"
unset SLURM_JOB_END_TIME
start_cluster "$folder/cluster" 3 32 2 || { echo "the cluster did not start"; exit 1; }
cd "$folder"
ln -s "$STRATA_SOURCE/slurm" slurm
export STRATA

# submit OPTION...: two ranks, trained into the folder $run; prints the job's id.
small=(--parsable --ntasks-per-node=2 --cpus-per-task=1)
arguments=("$config" --set train.tokens=2e6)
submit() { sbatch "${small[@]}" "$@" slurm/train.sbatch "${arguments[@]}" --set "run.output=$folder/$run"; }
until_true() { for ((i = 0; i < 900; i++)); do "$@" && return; sleep 0.1; done; echo "waited in vain: $*"; return 1; }
has_checkpoint() { ls "$folder/$1"/checkpoints/*/manifest.json >/dev/null 2>&1; }
gone() { [ -z "$(squeue -h --jobs="$1" 2>/dev/null)" ]; }
state() { scontrol -o show job "$1" | grep -o "$2=[^ ]*"; }
node_of() { squeue -h --jobs="$1" --format=%N; }
same() { check cmp "$folder"/whole/saes/*/sae_weights.safetensors "$folder/$1"/saes/*/sae_weights.safetensors; }

line=$(grep '^sbatch ' "$STRATA_SOURCE/README.md")
sed "s|run: {output: .*}|run: {output: $folder/first}|" "$config" >example.yaml
check env SBATCH_WAIT=1 bash -c "$line"
check test -f runs/by-slurm/summary.json

# What a task is given.
cat >tell <<'TELL'
#!/bin/sh
echo "end $SLURM_JOB_END_TIME gpus $CUDA_VISIBLE_DEVICES cpus $(nproc --all >/dev/null; echo $SLURM_CPUS_PER_TASK) arguments $*"
TELL
chmod +x tell
told=$(STRATA=$folder/tell sbatch --wait "${small[@]}" --gpus-per-task=1 --time=90 slurm/train.sbatch a.yaml --set b=c)
end=$(date --date="$(state "$told" StartTime | cut -d= -f2) 90 minutes" +%s)
cat slurm-$told.out
check grep -q "^end $end gpus 0 .* arguments train a.yaml --set b=c --resume$" "slurm-$told.out"

run=whole
check submit --wait

run=signalled
signalled=$(STRATA_STAGE='$SLURM_SUBMIT_DIR/disk' submit)
until_true has_checkpoint signalled
scancel --batch --signal=USR1 "$signalled" # as Slurm does ahead of the time limit
run=preempted
preempted=$(submit --nodelist=n2)
until_true has_checkpoint preempted
sbatch --partition=urgent --nodelist=n2 --exclusive --wrap=true >/dev/null
until_true gone "$signalled"
until_true gone "$preempted"
for job in "$signalled" "$preempted"; do
  check test "$(state "$job" Restarts)" = Restarts=1
  check grep -q 'stopped on request' "slurm-$job.out"
  check grep -q 'continuing from' "slurm-$job.out"
done
same signalled
same preempted
finish
