"""The SLURM cluster that rows may submit to: held jobs only, which never run and are cancelled at once."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from benchmarks.place import Place, environment
from benchmarks.timing import Failed

OF_THE_TESTS = "# Written by up.sh of experiment-manager"
TURN_S = 1800.0
HOME = Path(os.environ.get("EM_CLUSTER_HOME", "/tmp/experiment-manager-cluster"))
_SBATCH = """#!/bin/sh
# Submits, and writes down what was said and when it was over.
said=$({sbatch} "$@")
status=$?
echo "$(date +%s.%N) $said" >> "$SBATCH_LOG"
echo "$said"
exit $status
"""


def why_not() -> str:
    """Why nothing can be submitted from here; empty when it can. A cluster of other people is left alone."""
    conf = Path("/etc/slurm/slurm.conf")
    if not shutil.which("sbatch"):
        return "no SLURM here; as root on Debian, `make cluster-up` starts one"
    is_ours = "SLURM_CONF" not in os.environ and conf.exists() and conf.read_text().startswith(OF_THE_TESTS)
    if not is_ours and os.environ.get("EM_CLUSTER_USE_EXISTING") != "1":
        return "this SLURM was not started by `make cluster-up`; EM_CLUSTER_USE_EXISTING=1 submits held jobs to it"
    ping = subprocess.run(
        ["timeout", "30", "scontrol", "ping"], env=environment(), capture_output=True, text=True, check=False
    )
    return "" if " UP" in ping.stdout else "no slurmctld answers; `make cluster-up` starts it"


@contextmanager
def turn() -> Iterator[None]:
    """Nobody else tests on the cluster meanwhile. Raises Failed when that takes too long."""
    (HOME / "run").mkdir(parents=True, exist_ok=True)
    lock = FileLock(HOME / "run" / "tests.lock", timeout=TURN_S, mode=0o666)
    try:
        lock.acquire()
    except Timeout as error:
        raise Failed(f"others have tested on the cluster for {TURN_S:.0f} s") from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True, kw_only=True, slots=True)
class Submissions:
    """What is submitted with `environment`, and when. At the end of `watched` all of it is cancelled."""

    log: Path
    environment: dict[str, str]

    def rows(self) -> list[tuple[float, str]]:
        """When each `sbatch` was over, and the id that it gave."""
        text = self.log.read_text() if self.log.exists() else ""
        found = (re.match(r"(\S+) \D*(\d+)", line) for line in text.splitlines())
        return [(float(match[1]), match[2]) for match in found if match]


@contextmanager
def watched(place: Place) -> Iterator[Submissions]:
    """An `sbatch` that keeps a log stands before the real one."""
    folder = place.fresh("sbatch")
    command = folder / "sbatch"
    command.write_text(_SBATCH.format(sbatch=shutil.which("sbatch")))
    command.chmod(0o755)
    log = folder / "log"
    path = f"{folder}:{os.environ['PATH']}"
    submissions = Submissions(log=log, environment=environment(PATH=path, SBATCH_LOG=str(log)))
    try:
        yield submissions
    finally:
        ids = [slurm_id for _, slurm_id in submissions.rows()]
        if ids:
            subprocess.run(["scancel", *ids], env=environment(), check=False, capture_output=True)
