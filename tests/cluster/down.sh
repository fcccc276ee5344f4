#!/usr/bin/env bash
# Stops what up.sh has started, and nothing else; the jobs that are left are cancelled first.
#
#   down.sh            jobs, accounts and logs are there again after the next up.sh
#   down.sh --purge    they are deleted; the packages stay
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=tests/cluster/ground.sh
source "$here/ground.sh"

# A job outlives its slurmd, so it goes while there is somebody to tell.
cancel_jobs() {
    up "$RUN/slurmctld.pid" slurmctld || return 0
    local jobs
    jobs=$(timeout 10 squeue -h -o %A | sort -u) || return 0
    [[ -n $jobs ]] || return 0
    xargs timeout 10 scancel <<<"$jobs" || true
    for _ in {1..100}; do
        [[ -n $(timeout 5 squeue -h) ]] || return 0
        sleep 0.1
    done
}

[[ -d $RUN ]] || exit 0
[[ ${1:---purge} == --purge ]] || refuse 2 "down.sh does not know the argument $1."
[[ $(id -u) == 0 ]] || refuse 2 "only root can stop the cluster."
one_at_a_time "${BASH_SOURCE[0]}" "$@"
cancel_jobs
end_slurm
end "$RUN/slurmdbd.pid" slurmdbd
end "$RUN/mariadb/mariadbd.pid" mariadbd
end "$RUN/munged.pid" munged
if [[ ${1:-} == --purge ]]; then
    rm -rf "${HOME_OF_CLUSTER:?}"/{state,log,dev}
    say "purged"
fi
