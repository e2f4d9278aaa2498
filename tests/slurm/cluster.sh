# Sourced: a Slurm of several nodes on this machine, in a folder of its own, on the loopback interface; needs root, munged,
# slurmctld, slurmd and Slurm's PMIx plugin (Debian: slurm-wlm munge libpmix-dev).

free_port() { /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start_cluster FOLDER NODES CPUS GPUS: each of the nodes n1, n2, ... claims CPUS, however many the machine has, and GPUS, which
# are device files without a device.
start_cluster() {
  cluster=$1
  mkdir -p "$cluster"/state "$cluster"/munge "$cluster"/dev "$cluster"/log
  chmod 755 "$cluster" "$cluster/munge" # munged insists on a socket that all can reach
  (umask 077 && head -c 1024 /dev/urandom >"$cluster/munge/key")
  munged --socket="$cluster/munge/socket" --key-file="$cluster/munge/key" --pid-file="$cluster/munged.pid" \
    --log-file="$cluster/log/munged.log" --seed-file="$cluster/munge/seed" || return 1
  local host node nodes=() gpu
  host=$(hostname -s)
  for ((node = 1; node <= $2; node++)); do
    mkdir -p "$cluster/spool/n$node" "$cluster/tmp/n$node"
    nodes+=("n$node")
  done
  cat >"$cluster/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired; Slurm takes no less than 5 s.
AuthInfo=socket=$cluster/munge/socket,cred_expire=5
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool/%n
# The PMIx plugin makes a folder for each step there.
TmpFS=$cluster/tmp/%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.%n.pid
SlurmctldLogFile=$cluster/log/slurmctld.log
SlurmdLogFile=$cluster/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=$cluster/task_prolog
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=10
JobRequeue=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,bf_interval=1
$(for node in "${nodes[@]}"; do
    echo "NodeName=$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$3 Gres=gpu:$4 State=UNKNOWN"
  done)
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
CONF
  echo 'CgroupPlugin=cgroup/v1' >"$cluster/cgroup.conf" # loaded, never used
  for ((gpu = 0; gpu < $4; gpu++)); do mknod "$cluster/dev/gpu$gpu" c 1 3; done
  echo "Name=gpu File=$cluster/dev/gpu[0-$(($4 - 1))]" >"$cluster/gres.conf"
  # All nodes have this machine's host name, by which Open MPI names the files of ranks that share memory.
  cat >"$cluster/task_prolog" <<'PROLOG'
#!/bin/sh
folder=$(dirname "$0")/shm/$SLURMD_NODENAME
[ -z "$SLURM_STEP_ID" ] || { mkdir -p "$folder" && echo "export OMPI_MCA_btl_vader_backing_directory=$folder"; }
PROLOG
  chmod +x "$cluster/task_prolog"
  export SLURM_CONF=$cluster/slurm.conf
  slurmctld -f "$SLURM_CONF" || return 1
  for node in "${nodes[@]}"; do slurmd -f "$SLURM_CONF" -N "$node" || return 1; done
  for ((i = 0; i < 300; i++)); do
    [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | sort -u | wc -l)" = "$2" ] && return 0
    sleep 0.1
  done
  tail -n 20 "$cluster"/log/*
  return 1
}

# cut_power NODE: its daemon and all that it has started are gone at once, and the controller is told.
cut_power() {
  local process id parent doomed=("$(cat "$cluster/slurmd.$1.pid")")
  for process in /proc/[0-9]*; do
    id=${process#/proc/}
    grep -qsz "^SLURM_CONF=$SLURM_CONF\$" "$process/environ" && grep -qsz "^SLURMD_NODENAME=$1\$" "$process/environ" || continue
    parent=$(awk '/^PPid:/ {print $2}' "$process/status" 2>/dev/null)
    [ "$(cat "/proc/$parent/comm" 2>/dev/null)" != slurmstepd ] || doomed+=("$parent")
    doomed+=("$id")
  done
  kill -KILL "${doomed[@]}" 2>/dev/null
  scontrol update NodeName="$1" State=DOWN Reason=test
}

stop_cluster() {
  scancel --quiet --user="$(id -un)" 2>/dev/null
  for ((i = 0; i < 100; i++)); do
    [ -z "$(timeout 5 squeue -h -t R,CG,S 2>/dev/null)" ] && break
    sleep 0.1
  done
  local pid
  for pid in "$cluster"/slurmd.*.pid "$cluster/slurmctld.pid" "$cluster/munged.pid"; do
    [ ! -f "$pid" ] || kill "$(cat "$pid")" 2>/dev/null
  done
  for ((i = 0; i < 100; i++)); do
    kill -0 $(cat "$cluster"/slurm*.pid 2>/dev/null) 2>/dev/null || break
    sleep 0.1
  done
}
