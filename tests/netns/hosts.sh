# Sourced: several hosts on this machine, network namespaces on one bridge, each with a host name of its own; needs root, ip
# and tc (Debian: iproute2).

# start_hosts NAME N [RATE]: hosts 1 to N, 10.77.0.1 to 10.77.0.N in namespaces NAME1 to NAMEN; RATE (1gbit, say) limits what each
# sends, with a queue so long that nothing is lost.
start_hosts() {
  hosts_name=$1
  hosts_count=$2
  local i
  ip netns add "${hosts_name}0" && ip -n "${hosts_name}0" link add bridge type bridge && ip -n "${hosts_name}0" link set bridge up || return 1
  for ((i = 1; i <= $2; i++)); do
    ip netns add "$1$i" &&
      ip link add eth0 netns "$1$i" type veth peer name "port$i" netns "${1}0" &&
      ip -n "${1}0" link set "port$i" master bridge up &&
      ip -n "$1$i" addr add "10.77.0.$i/24" dev eth0 &&
      ip -n "$1$i" link set eth0 up && ip -n "$1$i" link set lo up || return 1
    [ -z "${3:-}" ] || ip netns exec "$1$i" tc qdisc add dev eth0 root tbf rate "$3" burst 64k latency 1s || return 1
  done
  # In place of ssh. A host name of its own: by their names Open MPI tells which ranks share memory.
  cat >"$folder/rsh" <<RSH
#!/bin/bash
while [[ \$1 == -* ]]; do shift; done
host=\${1##*.}
shift
exec ip netns exec "$1\$host" unshare --uts bash -c "hostname host\$host; \$*"
RSH
  chmod +x "$folder/rsh"
}

stop_hosts() {
  local i
  for ((i = 0; i <= hosts_count; i++)); do
    ip netns pids "$hosts_name$i" 2>/dev/null | xargs --no-run-if-empty kill -KILL 2>/dev/null
    ip netns del "$hosts_name$i" 2>/dev/null
  done
}

# on_hosts HOSTS RANKS COMMAND...: RANKS on each of the first HOSTS, over TCP between them.
on_hosts() {
  local hosts=$1 ranks=$2 list= i
  shift 2
  for ((i = 1; i <= hosts; i++)); do list+=${list:+,}10.77.0.$i:$ranks; done
  "$folder/rsh" 10.77.0.1 "$(printf '%q ' mpirun --mca plm_rsh_agent "$folder/rsh" --mca btl self,vader,tcp \
    --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 -n $((hosts * ranks)) --host "$list" "$@")"
}
