#!/usr/bin/env bash
# A real Slurm on this machine for the tests: Debian's slurm-wlm and munge, as root, on loopback, on ports and with a key of its own.
#   cluster.sh start DIR FIRST_PORT      then   export SLURM_CONF=DIR/slurm.conf
#   cluster.sh stop DIR                  ends exactly the daemons that start began, by their pid files
# Two nodes of one core. No accounting, as on many clusters: a client must not wait for sacct to learn that a job died.
set -eu
base=$(mkdir -p "${2:?folder}" && cd "$2" && pwd)

stop() {
  for name in slurmd.n1 slurmd.n2 slurmctld munged; do
    [ -f "$base/$name.pid" ] || continue
    pid=$(cat "$base/$name.pid")
    kill "$pid" 2>/dev/null || continue
    # An ended daemon may stay as a zombie where process 1 does not wait for orphans, as in some containers.
    for _ in $(seq 100); do grep -qs '^State:[[:space:]][^Z]' "/proc/$pid/status" || break; sleep 0.1; done
  done
}

start() {
  port=${3:?first port}
  host=$(hostname -s)
  chmod 755 "$base"
  mkdir -p "$base"/{state,n1,n2}
  dd if=/dev/urandom of="$base/munge.key" bs=64 count=1 status=none
  chmod 400 "$base/munge.key"
  /usr/sbin/munged --force --key-file="$base/munge.key" --socket="$base/munge.socket" --pid-file="$base/munged.pid" \
    --log-file="$base/munged.log" --seed-file="$base/munge.seed" 2>>"$base/start.log"
  export SLURM_CONF=$base/slurm.conf
  cat >"$SLURM_CONF" <<C
ClusterName=homodyne-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$base/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmctldPort=$port
StateSaveLocation=$base/state
SlurmctldPidFile=$base/slurmctld.pid
SlurmctldLogFile=$base/slurmctld.log
SlurmdPidFile=$base/slurmd.%n.pid
SlurmdSpoolDir=$base/%n
SlurmdLogFile=$base/slurmd.%n.log
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=1
KillWait=2
MinJobAge=300
JobRequeue=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1 RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
C
  /usr/sbin/slurmctld -c -f "$SLURM_CONF"
  for node in n1 n2; do /usr/sbin/slurmd -N "$node" -f "$SLURM_CONF"; done
  for _ in $(seq 100); do sinfo -h -N -o %T 2>/dev/null | grep -c '^idle$' | grep -q 2 && return; sleep 0.1; done
  echo "Slurm did not start:" && cat "$base"/*.log && return 1
}

case $1 in
  start) start "$@" ;;
  stop) stop ;;
esac
