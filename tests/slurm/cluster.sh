# Sourced: a Slurm of one node on this machine, in a folder of its own, on the loopback interface; needs root, munged,
# slurmctld, slurmd and Slurm's PMIx plugin (Debian: slurm-wlm munge libpmix-dev).

free_port() { /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start_cluster FOLDER CPUS: the node claims CPUS, however many the machine has.
start_cluster() {
  cluster=$1
  mkdir -p "$cluster"/state "$cluster"/spool "$cluster"/munge "$cluster"/tmp
  chmod 755 "$cluster" "$cluster/munge" # munged insists on a socket that all can reach
  (umask 077 && head -c 1024 /dev/urandom >"$cluster/munge/key")
  munged --socket="$cluster/munge/socket" --key-file="$cluster/munge/key" --pid-file="$cluster/munged.pid" \
    --log-file="$cluster/munged.log" --seed-file="$cluster/munge/seed" || return 1
  local host
  host=$(hostname -s)
  cat >"$cluster/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket=$cluster/munge/socket,cred_expire=5
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool
TmpFS=$cluster/tmp
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=10
JobRequeue=1
SchedulerParameters=batch_sched_delay=0,bf_interval=1
NodeName=node NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  echo 'CgroupPlugin=cgroup/v1' >"$cluster/cgroup.conf" # loaded, never used
  export SLURM_CONF=$cluster/slurm.conf
  slurmctld -f "$SLURM_CONF" && slurmd -f "$SLURM_CONF" -N node || return 1
  for ((i = 0; i < 300; i++)); do
    [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && return 0
    sleep 0.1
  done
  tail -n 20 "$cluster"/*.log
  return 1
}

stop_cluster() {
  scancel --quiet --user="$(id -un)" 2>/dev/null
  sleep 1
  local daemon
  for daemon in slurmd slurmctld munged; do
    [ ! -f "$cluster/$daemon.pid" ] || kill "$(cat "$cluster/$daemon.pid")" 2>/dev/null
  done
  for ((i = 0; i < 100; i++)); do
    kill -0 $(cat "$cluster"/slurm*.pid 2>/dev/null) 2>/dev/null || break
    sleep 0.1
  done
}
