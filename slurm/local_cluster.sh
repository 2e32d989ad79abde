#!/usr/bin/env bash
# A real SLURM of two emulated nodes on this machine, for tests and laptops: munged, slurmctld and two slurmd.
#
#   apt-get install slurm-wlm munge            # Debian or Ubuntu; nothing in /etc is read or written here
#   eval "$(slurm/local_cluster.sh start)"     # starts it and points this shell's sbatch, squeue, ... to it
#   sinfo
#   python launch/sweep.py configs/sweeps/quickstart.yaml --cluster slurm
#   slurm/local_cluster.sh stop                # ends all jobs and daemons; nothing stays behind
#   slurm/local_cluster.sh status
#
# Two nodes, node1 and node2, with four CPUs and two (pretended) GPUs each. Two partitions over both: `normal`, whose
# jobs are requeued when `urgent` preempts them, 15 s after a warning.
# Everything lies in one folder: $ELTH_SLURM_FOLDER, or /tmp/elth-slurm-UID. Works as root and as any other user.
set -euo pipefail

folder=${ELTH_SLURM_FOLDER:-/tmp/elth-slurm-$(id -u)}
conf=$folder/slurm.conf
mark=$folder/.local_cluster # marks a folder that stop may remove
nodes=(node1 node2)
export SLURM_CONF=$conf

die() {
    echo "local_cluster: error: $*" >&2
    exit 1
}

free_ports() { # prints that many free TCP ports, below the range of ephemeral ports
    python3 - "$1" <<'PYTHON'
import contextlib, random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    with contextlib.suppress(OSError):
        held.append(socket.create_server(("127.0.0.1", random.randrange(10_000, 32_000))))
print(*(one.getsockname()[1] for one in held))
PYTHON
}

write_configuration() {
    local user controller first second
    user=$(id -un)
    read -r controller first second <<<"$(free_ports 3)"
    # one machine: every node has its address; `-N` tells a slurmd which node it is
    cat >"$conf" <<CONF
ClusterName=elth
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
CredType=cred/munge
# a requeued job may start again when its old credential has expired: 10 s instead of two minutes
AuthInfo=socket=$folder/munge/socket,cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
# no cgroups, no accounting: works in a container
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SlurmctldParameters=preempt_send_user_signal
KillWait=5
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
GresTypes=gpu
NodeName=${nodes[0]} NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$first CPUs=4 RealMemory=2000 Gres=gpu:2
NodeName=${nodes[1]} NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$second CPUs=4 RealMemory=2000 Gres=gpu:2
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
    touch "$folder"/gpu{0,1}
    echo "Name=gpu File=$folder/gpu[0-1]" >"$folder/gres.conf"
}

wait_for() { # seconds, command...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

all_idle() { [[ $(sinfo --noheader --Node --partition normal --format %T | grep -c '^idle$') == "${#nodes[@]}" ]]; }

failed() {
    tail -n 20 "$folder"/log/* >&2 || true
    stop
    die "the cluster did not start"
}

start() {
    for program in munged slurmctld slurmd sbatch python3; do
        command -v "$program" >/dev/null || die "no $program here: apt-get install slurm-wlm munge"
    done
    [[ ! -e $mark ]] || die "there is one in $folder: $0 stop first"
    [[ ! -e $folder ]] || die "$folder exists and is not a cluster of this script: set ELTH_SLURM_FOLDER to a new path"
    ((${#folder} < 80)) || die "$folder: too long for a socket's path; set ELTH_SLURM_FOLDER"
    mkdir -m 755 "$folder"
    touch "$mark"
    mkdir -m 755 "$folder"/{munge,state,spool,log}
    trap 'failed' ERR
    head -c 1024 /dev/urandom >"$folder/munge/key"
    chmod 400 "$folder/munge/key"
    # --force: root's munged otherwise insists on folders of the user munge
    munged --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" --num-threads=2 \
        --log-file="$folder/munge/log" --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed" \
        2>>"$folder/log/munged"
    write_configuration
    slurmctld -f "$conf" >"$folder/log/start" 2>&1
    for node in "${nodes[@]}"; do
        mkdir -p "$folder/spool/$node"
        slurmd -N "$node" -f "$conf" >>"$folder/log/start" 2>&1
    done
    wait_for 60 all_idle
    trap - ERR
    echo "local_cluster: $(sinfo --noheader --summarize --partition normal --format '%D nodes, %C CPUs (allocated/idle/other/total)')" >&2
    echo "export SLURM_CONF=$conf"
}

no_jobs() { [[ -z $(squeue --noheader 2>/dev/null) ]]; }

ours() { # process ids of daemons, job steps and jobs of this cluster, whoever their parent is now
    local process variables
    for process in /proc/[0-9]*; do
        variables=$(cat "$process/environ" 2>/dev/null | tr "\0" "\n") || continue
        if grep -qxF "SLURM_CONF=$conf" <<<"$variables" && {
            [[ $(cat "$process/comm" 2>/dev/null) =~ ^(slurmctld|slurmd|slurmstepd|munged)$ ]] ||
                grep -q "^SLURM_JOB_ID=" <<<"$variables"
        }; then
            basename "$process"
        fi
    done
    return 0
}

none_left() { [[ -z $(ours) ]]; }

stop() {
    trap - ERR
    [[ -e $folder ]] || return 0
    [[ -e $mark ]] || die "$folder is not a cluster of this script: nothing is changed"
    if [[ -e $conf ]] && scontrol ping >/dev/null 2>&1; then
        scancel --quiet --user="$(id -un)" 2>/dev/null || true
        wait_for 20 no_jobs || true
        scontrol shutdown >/dev/null 2>&1 || true
    fi
    [[ ! -e $folder/munge/pid ]] || kill "$(cat "$folder/munge/pid")" 2>/dev/null || true
    if ! wait_for 10 none_left; then
        for process in $(ours); do kill -KILL "$process" 2>/dev/null || true; done
        wait_for 10 none_left || true
    fi
    rm -rf "$folder"
}

status() {
    [[ -e $conf ]] || die "none in $folder; $0 start makes one"
    scontrol ping
    sinfo --Node --long
    squeue
}

case ${1:-} in
start) start ;;
stop) stop ;;
status) status ;;
*)
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
