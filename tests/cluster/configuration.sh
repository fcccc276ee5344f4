# shellcheck shell=bash disable=SC2034
# What the cluster is: the files of /etc/slurm, made from the knobs. Sourced by up.sh after ground.sh.

NODES=${EM_CLUSTER_NODES:-2}
CPUS=${EM_CLUSTER_CPUS:-8}                     # per node, whatever the machine has
MEMORY=${EM_CLUSTER_MEMORY:-8000}              # MiB per node, likewise
GPUS=${EM_CLUSTER_GPUS:-4}                     # per node; 0: none
CGROUP=${EM_CLUSTER_CGROUP:-auto}              # auto, yes or no
KILL_WAIT=${EM_CLUSTER_KILL_WAIT:-5}           # seconds from TERM to KILL
SLURMD_TIMEOUT=${EM_CLUSTER_SLURMD_TIMEOUT:-10} # seconds until a silent node is down
MIN_JOB_AGE=${EM_CLUSTER_MIN_JOB_AGE:-30}      # seconds that a finished job stays known to squeue
REQUEUE_DELAY=${EM_CLUSTER_REQUEUE_DELAY:-5}   # seconds that a requeued job waits; 120 where nobody has set it
GRACE_TIME=${EM_CLUSTER_GRACE_TIME:-10}        # seconds of warning before preemption in the partition `grace`
ENFORCE=${EM_CLUSTER_ENFORCE:-}                # AccountingStorageEnforce, as in associations,limits,qos
EXTRA=${EM_CLUSTER_EXTRA:-}                    # lines at the end of slurm.conf, where they win
USERS=${EM_CLUSTER_USERS:-root alice}          # in accounting, those of them that the machine has

CONTROLLER_PORT=26817 DATABASE_DAEMON_PORT=26819 SQL_PORT=26806 NODE_PORTS=26900
SQL_PASSWORD=only-on-loopback

refuse_unknown_knobs() {
    local name
    for name in $(compgen -e EM_CLUSTER_); do
        case ${name#EM_CLUSTER_} in
        HOME | USE_EXISTING | SLURM | DEBIAN | MIRROR) ;;
        NODES | CPUS | MEMORY | GPUS | CGROUP | KILL_WAIT | SLURMD_TIMEOUT | MIN_JOB_AGE) ;;
        REQUEUE_DELAY | GRACE_TIME | ENFORCE | EXTRA | USERS) ;;
        *) refuse 2 "there is no knob $name; tests/cluster/README.md lists those that there are." ;;
        esac
    done
}

nodes() { seq -f 'n%g' 1 "$NODES"; }

# A word that a SLURM does not know makes every client of it fail, and every daemon.
slurm_is() { # slurm_is VERSION: this one or a newer one
    local version
    version=$(slurmctld -V)
    [[ $(printf '%s\n' "$1" "${version##* }" | sort -V | head -n 1) == "$1" ]]
}

# Memory limits need controllers of cgroups, mounted and writable; not every container has them. Version 2 has all of them in
# one tree.
cgroups_can_be_made() {
    local probe=/sys/fs/cgroup/memory/experiment-manager-probe limit=memory.limit_in_bytes found=1
    if cgroups_are_of_version_2; then
        grep -qw memory /sys/fs/cgroup/cgroup.controllers || return 1
        probe=/sys/fs/cgroup/experiment-manager-probe limit=cgroup.procs
    else
        [[ -d /sys/fs/cgroup/freezer ]] || return 1
    fi
    mkdir -p "$probe" 2>/dev/null || return 1
    [[ ! -w $probe/$limit ]] || found=0
    rmdir "$probe" 2>/dev/null || true
    return "$found"
}

cgroups_are_of_version_2() { [[ -e /sys/fs/cgroup/cgroup.controllers ]]; }

decide_on_cgroups() {
    [[ $CGROUP == auto ]] || return 0
    if cgroups_can_be_made; then CGROUP=yes; else CGROUP=no; fi
}

slurm_conf() {
    cat <<CONF
$MARK; the next call overwrites this.
ClusterName=experiments
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$CONTROLLER_PORT
$(listening_line NoCtldInAddrAny,NoInAddrAny)
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
PropagateResourceLimits=NONE

# Where things are
StateSaveLocation=$STATE/slurmctld
SlurmctldPidFile=$RUN/slurmctld.pid
SlurmctldLogFile=$LOG/slurmctld.log
SlurmctldDebug=info
SlurmdSpoolDir=$STATE/slurmd.%n
SlurmdPidFile=$RUN/slurmd.%n.pid
SlurmdLogFile=$LOG/slurmd.%n.log
SlurmdDebug=info

# How long things take: short, and still reliable on two cores
AuthInfo=cred_expire=$REQUEUE_DELAY
KillWait=$KILL_WAIT
SlurmdTimeout=$SLURMD_TIMEOUT
MinJobAge=$MIN_JOB_AGE
SlurmctldTimeout=30
MessageTimeout=10
BatchStartTimeout=10
UnkillableStepTimeout=30
EpilogMsgTime=100
CompleteWait=0
InactiveLimit=0
Waittime=0

# Who runs where and when
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=$(scheduler_parameters)
ReturnToService=2

# What is counted
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobCompType=jobcomp/none
$(accounting_lines)
$(tracking_lines)

# The machines
SlurmdParameters=config_overrides
$(machine_lines)
PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=INFINITE DefaultTime=01:00:00 DefMemPerCPU=200
PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=short PriorityTier=10 PreemptMode=OFF DefaultTime=00:01:00 MaxTime=00:02:00
PartitionName=preempt PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=grace PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE_TIME
$EXTRA
CONF
}

# SLURM can be told to listen on one address only, which then is the one of the machine's name. Where that is not the one
# by which the daemons are asked, as in most containers, and as 127.0.1.1 on Debian, nobody would hear us there, so they
# listen everywhere, guarded by munge.
listening_line() { # listening_line PARAMETERS
    local address
    address=$(getent ahostsv4 "$(uname -n)" | head -n 1) || true
    [[ ${address%% *} != 127.0.0.1 ]] || echo "CommunicationParameters=$1"
}

scheduler_parameters() {
    local at_once=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_resolution=1
    echo "$at_once,sched_max_job_start=0,default_queue_depth=1000,partition_job_depth=0"
}

accounting_lines() {
    if [[ $ACCOUNTING == no ]]; then
        echo AccountingStorageType=accounting_storage/none
        return
    fi
    echo AccountingStorageType=accounting_storage/slurmdbd
    echo AccountingStorageHost=127.0.0.1
    echo AccountingStoragePort=$DATABASE_DAEMON_PORT
    ! slurm_is 21 || echo AccountingStoreFlags=job_comment,job_script
    [[ $GPUS == 0 ]] || echo AccountingStorageTRES=gres/gpu
    [[ -z $ENFORCE ]] || echo "AccountingStorageEnforce=$ENFORCE"
}

tracking_lines() {
    if [[ $CGROUP == yes ]]; then
        printf '%s\n' ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup
    else
        printf '%s\n' ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherParams=OverMemoryKill
    fi
}

machine_lines() {
    local size="CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEMORY"
    if [[ $GPUS != 0 ]]; then
        echo GresTypes=gpu
        size+=" Gres=gpu:$GPUS"
    fi
    echo "NodeName=n[1-$NODES] NodeHostname=localhost NodeAddr=127.0.0.1" \
        "Port=[$((NODE_PORTS + 1))-$((NODE_PORTS + NODES))] $size State=UNKNOWN"
}

gres_conf() {
    local node
    [[ $GPUS != 0 ]] || return 0
    for node in $(nodes); do
        echo "NodeName=$node Name=gpu File=$HOME_OF_CLUSTER/dev/$node/gpu[0-$((GPUS - 1))]"
    done
}

# SLURM takes only devices for GPUs; a twin of /dev/null is one.
make_gpus() {
    local node gpu device
    [[ $GPUS != 0 ]] || return 0
    for node in $(nodes); do
        mkdir -p "$HOME_OF_CLUSTER/dev/$node"
        for ((gpu = 0; gpu < GPUS; gpu++)); do
            device=$HOME_OF_CLUSTER/dev/$node/gpu$gpu
            [[ -c $device ]] || mknod -m 666 "$device" c 1 3
        done
    done
}

# Of version 2 SLURM wants systemd to make a scope for it, which no container has.
cgroup_conf() {
    if [[ $CGROUP != yes ]] && slurm_is 24; then
        echo CgroupPlugin=disabled
    elif [[ $CGROUP == yes ]] && cgroups_are_of_version_2; then
        printf '%s\n' CgroupPlugin=cgroup/v2 IgnoreSystemd=yes EnableControllers=yes
    elif slurm_is 21; then
        echo CgroupPlugin=cgroup/v1
    fi
    [[ $CGROUP == yes ]] || return 0
    printf '%s\n' CgroupMountpoint=/sys/fs/cgroup CgroupAutomount=no \
        ConstrainRAMSpace=yes ConstrainSwapSpace=no ConstrainCores=no ConstrainDevices=no
}

slurmdbd_conf() {
    cat <<CONF
$MARK; the next call overwrites this.
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$DATABASE_DAEMON_PORT
$(listening_line NoInAddrAny)
SlurmUser=slurm
AuthType=auth/munge
LogFile=$LOG/slurmdbd.log
PidFile=$RUN/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$SQL_PORT
StorageLoc=slurm_accounting
StorageUser=slurm
StoragePass=$SQL_PASSWORD
CONF
}
