"""Notes what SLURM's commands print about jobs of which we know what became of them, for `test_slurm_lines.py`.

    python -m tests.cluster.record                                    the SLURM of this machine
    tests/cluster/debian.sh 24.11 python -m tests.cluster.record      another one
    python -m tests.cluster.record --refusals                         only the refusals that were not noted yet

Writes `tests/slurm_lines/VERSION.txt`: each command behind a dollar sign, and what it printed on both outputs below it.
The cluster is that of `up.sh`, and nobody else may use it meanwhile.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from experiment_manager.scheduler.slurm.client import _ASKED_WITH
from experiment_manager.scheduler.slurm.parse import SACCT_FORMAT, SQUEUE_FORMAT
from tests.cluster.conftest import HERE, wait_for_queue_to_drain
from tests.conftest import clean_env, wait_until

LINES = HERE.parent / "slurm_lines"
EATS = f"{sys.executable} -c 'x = bytearray(300_000_000)'"
ASKS = "trap 'scontrol -o show job $SLURM_JOB_ID >asked.$SLURM_JOB_NAME; exit 1' TERM; sleep 100 & wait"

JOBS = {  # by the name: the options, and the script
    "good": ([], "srun true"),
    "failed": ([], "exit 3"),
    "killed": ([], "kill -9 $$"),
    "memory": (["--mem=50M"], EATS),
    "memory-srun": (["--mem=50M"], f"srun {EATS}"),
    "limit": ([], ASKS),
    "cancelled": ([], ASKS),
    "requeued": (["--array=0-1"], "exec sleep 100"),
    "preempted": (["--partition=preempt", "-w", "n2", "--exclusive"], ASKS),
    "partly": (["--array=0-5", "--hold"], "true"),
    "throttled": (["--array=0-8:2%2", "--begin=now+1hour"], "true"),
    "never": (["--dependency=afterok:{failed}"], "true"),
    "held-by-root": (["--array=0-1", "--begin=now+1hour"], "true"),
    "requeued-and-held": ([], "exec sleep 100"),
    "suspended": ([], "exec sleep 100"),
}
REFUSED = (
    "--partition=nosuch",
    "--mem=900G",
    "--gpus-per-node=9",
    "--gres=foo:1",
    "--constraint=fast",
    "--exclude=n77",
    "--array=0-1001",
    "--licenses=none:1",
    "--reservation=none",
    "--cluster=nosuch",
    "--nonsense",
    "--mem=1G --mem-per-cpu=1G",
    "--time=soon",
)
PAIRS = (  # of options of which we take one; each SLURM refuses some of them, and takes the others
    "--mem=1G --mem-per-gpu=1G --gpus-per-node=1",
    "--mem-per-cpu=1G --mem-per-gpu=1G --gpus-per-node=1",
    "--cpus-per-task=2 --cpus-per-gpu=2 --gpus-per-node=1",
    "--gres=gpu:1 --gpus-per-node=1",
    "--requeue --no-requeue",
)
LAST = "$ sbatch --test-only good.sh\n"  # what comes after the refusals


class Recorder:
    """The commands and what they print, in a folder where the jobs write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = ""
        self.ids: dict[str, str] = {}

    def run(self, *command: str, check: bool = True, env: Mapping[str, str] = MappingProxyType({})) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=clean_env(**env), capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, (command, done.stderr)
        return done.stdout + done.stderr

    def note(self, command: str, printed: str) -> None:
        """The ids in a command become names, so that they are the same everywhere."""
        text = printed.rstrip("\n").replace(str(self.folder), "/jobs").replace(sys.executable, "python")
        self.text += f"$ {command}\n{text}\n" if text else f"$ {command}\n"

    def asked(self, *command: str, as_we_ask: bool = True) -> None:
        self.note(" ".join(command), self.run(*command, check=False, env=_ASKED_WITH if as_we_ask else {}))

    def state(self, name: str) -> str:
        return " ".join(sorted(set(self.run("squeue", "-h", "-t", "all", "-j", self.ids[name], "-o", "%T").split())))

    def until(self, name: str, *states: str) -> None:
        wait_until(lambda: self.state(name) in states, 90.0)

    def submit(self) -> None:
        for name, (options, script) in JOBS.items():
            words = [option.format_map(self.ids) for option in options]
            (self.folder / f"{name}.sh").write_text(f"#!/bin/bash\n{script}\n")
            common = ("sbatch", "--parsable", "-w", "n1", "-J", name, "-o", f"{name}.log", "--open-mode=append")
            self.ids[name] = self.run(*common, *words, f"{name}.sh").strip()

    def disturb(self) -> None:
        for name in ("limit", "cancelled", "requeued", "preempted", "requeued-and-held", "suspended"):
            self.until(name, "RUNNING")
        self.run("scontrol", "hold", self.ids["held-by-root"])
        self.run("scontrol", "requeuehold", self.ids["requeued-and-held"])
        self.run("scontrol", "suspend", self.ids["suspended"])
        self.run("scontrol", "update", f"jobid={self.ids['limit']}", "endtime=now+1")
        self.run("scancel", self.ids["cancelled"])
        self.run("scancel", f"{self.ids['partly']}_[2-3]")
        self.run("scontrol", "requeue", f"{self.ids['requeued']}_0")
        self.run("sbatch", "-w", "n2", "-J", "first", "-o", "first.log", "--exclusive", "--wrap=sleep 3")
        self.until("preempted", "PENDING")
        for name in ("failed", "killed", "memory", "memory-srun", "limit", "cancelled"):
            self.until(name, "FAILED", "OUT_OF_MEMORY", "TIMEOUT", "CANCELLED")
        self.until("requeued-and-held", "PENDING", "REQUEUE_HOLD")

    def ask(self) -> None:
        self.asked("squeue", "-h", "--me", "-t", "all", "-o", SQUEUE_FORMAT)
        names = ",".join(JOBS)

        def is_told() -> bool:
            told = self.run("sacct", "-X", "-n", "-P", "-D", "-o", "JobName,State", "--name", names)
            wanted = {"limit|TIMEOUT", "cancelled|CANCELLED by 0", "preempted|RUNNING", "memory|OUT_OF_MEMORY"}
            return wanted <= set(told.splitlines())

        wait_until(is_told)
        ids = ",".join(self.ids.values())
        words = ("sacct", "-a", "-n", "-P", "-D", "-o", SACCT_FORMAT)
        self.note(" ".join(words), self.run(*words, "-j", ids, env=_ASKED_WITH))
        settings = self.run("scontrol", "show", "config").splitlines()
        read = [line for line in settings if line.startswith(("Configuration", "KillWait", "MaxArraySize"))]
        self.note("scontrol show config", "\n".join(read))
        self.asked("scontrol", "-o", "show", "job", "9999999")
        self.note(
            "scontrol -o show job partly",
            self.run("scontrol", "-o", "show", "job", f"{self.ids['partly']}_2", check=False),
        )
        self.note("scontrol requeue partly", self.run("scontrol", "requeue", f"{self.ids['partly']}_4", check=False))
        for name in ("limit", "cancelled", "preempted"):
            self.note(f"scontrol -o show job {name}, as it is ended", (self.folder / f"asked.{name}").read_text())
        for name in ("memory", "memory-srun", "limit", "cancelled", "requeued", "preempted"):
            self.note(f"cat {name}.log", (self.folder / f"{name}.log").read_text())

    def be_refused(self, noted: str = "") -> None:
        """Notes what sbatch says to what it refuses, or is to refuse, but for what is noted already."""
        for words in (*REFUSED, *(f"--test-only {pair}" for pair in PAIRS)):
            if f"$ sbatch {words} good.sh\n" not in noted:
                self.asked("sbatch", *words.split(), "good.sh", as_we_ask=False)

    def ask_the_rest(self) -> None:
        self.asked("sbatch", "--test-only", "good.sh", as_we_ask=False)
        self.run(str(HERE / "up.sh"), "--no-accounting")
        self.asked("sacct", "--name", "good")
        self.run(str(HERE / "up.sh"))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="experiment-manager-lines-") as folder:
        recorder = Recorder(Path(folder))
        recorder.run(str(HERE / "up.sh"))
        version = recorder.run("sinfo", "-V").split()[-1]
        lines = LINES / f"{version.rpartition('.')[0]}.txt"
        if "--refusals" in sys.argv:
            (recorder.folder / "good.sh").write_text("#!/bin/bash\nsrun true\n")
            noted = lines.read_text()
            recorder.be_refused(noted)
            before, last, after = noted.partition(LAST)
            lines.write_text(f"{before}{recorder.text}{last}{after}")
            return
        recorder.asked("sinfo", "-V")
        try:
            recorder.submit()
            recorder.disturb()
            recorder.ask()
            recorder.be_refused()
            recorder.ask_the_rest()
        finally:
            recorder.run("scancel", *recorder.ids.values(), check=False)
            wait_for_queue_to_drain(*recorder.ids.values())
    LINES.mkdir(exist_ok=True)
    lines.write_text(recorder.text)


if __name__ == "__main__":
    os.umask(0o022)
    main()
