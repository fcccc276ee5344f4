"""Submission that is interrupted anywhere: typed again it goes on, and SLURM has every array exactly once."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import HOME, reconfigured
from tests.cluster.python_jobs import Jobs
from tests.cluster.sweeps import slurm
from tests.conftest import Program, clean_env, in_shape, wait_until

pytestmark = pytest.mark.heavy  # minutes: run by `make test-cluster`


class Parts(Jobs):
    """Jobs that SLURM gets as many arrays, one for each: their scripts are written and not submitted yet."""

    def __init__(self, home: Path, n_parts: int, **options: Any) -> None:
        configurations = [{"res": {"mem_gb": 0.2 + part / 1000}} for part in range(n_parts)]
        super().__init__(home, configurations, resources_from="res", **options)
        self.home, self.n_parts = home, n_parts
        self.scripts = [Path(path) for path in self.experiment.generate_slurm_script()]
        (self.launch,) = (self.path / "launches").iterdir()
        record = json.loads((self.launch / "launch.json").read_text())
        self.names = [array["name"] for array in record["slurm"]["arrays"]]
        self.program = Program(home)
        self.program.experiment = self.path

    def submitting(self, **env: str) -> "subprocess.Popen[str]":
        """`experiment-manager submit`, begun."""
        return self.program.start("-m", "experiment_manager", "submit", str(self.path), "--json", **env)

    def told(self, **env: str) -> Any:
        """What `experiment-manager submit` says, which ends well."""
        done = self.program.tool("submit", "--json", **env)
        assert 0 == done.returncode, done.stderr
        return in_shape("submit", done.stdout)

    def noted(self) -> dict[str, Any]:
        """What is on disk about the submission."""
        path = self.launch / "submission.json"
        found: dict[str, Any] = json.loads(path.read_text())["arrays"] if path.exists() else {}
        return found

    def has_begun(self, name: str) -> bool:
        return "doubtful_until" in self.noted().get(name, {})

    def there(self, *, has_accounting: bool = True) -> dict[str, set[str]]:
        """SLURM's ids of each array, in the queue or in accounting."""
        rows = slurm("squeue", "-h", "-t", "all", "-o", "%j|%F").splitlines()
        if has_accounting:
            asked = ("sacct", "-a", "-n", "-P", "-D", "-X", "-S", "now-1hour", "--name", ",".join(self.names))
            found = slurm(*asked, "-o", "JobName,JobID").splitlines()
            rows += [line.partition("_")[0] for line in found]
        ids: dict[str, set[str]] = {name: set() for name in self.names}
        for name, _, slurm_id in (row.rpartition("|") for row in rows):
            if name in ids:
                ids[name].add(slurm_id)
        return ids

    def each_once(self, *, has_accounting: bool = True) -> None:
        """SLURM has had every array once, under the id that is noted; every job has completed in one attempt."""
        wait_until(lambda: len(self.states()) == self.n_parts and not any("RUN" in name for name in self.states()), 90)
        assert sorted(f"{job}.1.COMPLETED" for job in range(self.n_parts)) == self.states()
        noted = {name: {about["slurm_id"]} for name, about in self.noted().items()}
        assert noted == self.there(has_accounting=has_accounting)
        assert self.n_parts == len({slurm_id for ids in noted.values() for slurm_id in ids})


def wrapper(folder: Path, *cases: str) -> str:
    """A path on which `sbatch` is ours: `cases` are shell lines for its first call, its second, and so on; `$REAL "$@"`
    is what it does afterwards."""
    folder.mkdir()
    real = shutil.which("sbatch")
    numbered = "\n".join(f"{number}) {case} ;;" for number, case in enumerate(cases, start=1))
    choose = f'echo >> "$0.calls"\ncase $(wc -l < "$0.calls") in\n{numbered}\nesac'
    (folder / "sbatch").write_text(f'#!/bin/bash\nREAL={real}\n{choose}\nexec $REAL "$@"\n')
    (folder / "sbatch").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def calls(folder: Path) -> int:
    """How often the wrapper in a folder was called."""
    path = folder / "sbatch.calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


@contextmanager
def stopped_controller() -> Iterator[int]:
    """slurmctld takes connections and answers none; inside, its pid. It goes on at the end, if not before."""
    pid = int((HOME / "run" / "slurmctld.pid").read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "slurmctld\n"
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


TIMED_OUT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"


def test_kills_at_many_moments(tmp_path: Path) -> None:
    """`kill -9` of `submit` at any moment of its calls of `sbatch`: typed again and again it gets all to SLURM, and
    nothing twice."""
    parts = Parts(tmp_path / "home", 16)
    path = wrapper(tmp_path / "bin", *['$REAL "$@"; status=$?; sleep 0.06; exit $status'] * 100)
    before = kills = in_doubt = 0
    while before < parts.n_parts:
        process = parts.submitting(PATH=path)
        wait_until(lambda: calls(tmp_path / "bin") > before or process.poll() is not None)  # noqa: B023
        time.sleep(0.02 + 0.01 * (kills % 12))
        kill(process)
        kills += process.returncode != 0
        before = calls(tmp_path / "bin")
        in_doubt += any(parts.has_begun(name) for name in parts.names)
    assert kills >= 8
    assert in_doubt >= 3
    parts.told()
    parts.each_once()


def test_killed_before_sbatch_has_submitted(tmp_path: Path) -> None:
    """A killed `submit` takes its `sbatch` along; the next one waits until nothing can come of it, and submits."""
    parts = Parts(tmp_path / "home", 2)
    process = parts.submitting(PATH=wrapper(tmp_path / "bin", "exec sleep 20"))
    wait_until(lambda: calls(tmp_path / "bin"))
    (sleeper,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    kill(process)
    wait_until(
        lambda: not Path(f"/proc/{sleeper}/cmdline").exists() or not Path(f"/proc/{sleeper}/cmdline").read_text()
    )
    assert set() == parts.there()[parts.names[0]]
    began = time.monotonic()
    assert [True, True] == [array["is_new"] for array in parts.told()]
    assert 2 < time.monotonic() - began < 20
    parts.each_once()


def test_every_way_in_which_sbatch_fails_after_it_has_submitted(tmp_path: Path) -> None:
    """A socket that timed out, an `sbatch` that was killed, one that says nothing and one that never comes back have
    submitted nevertheless: the arrays are found by their names."""
    parts = Parts(tmp_path / "home", 6)
    path = wrapper(
        tmp_path / "bin",
        f'$REAL "$@" >&2; {TIMED_OUT}',
        '$REAL "$@"; kill -9 $$',
        '$REAL "$@" > /dev/null; exit 0',
        '$REAL "$@" > /dev/null; kill -TERM $$',
        '$REAL "$@" > /dev/null; exec sleep 30',
    )
    process = parts.submitting(PATH=path)
    wait_until(lambda: calls(tmp_path / "bin") == 5 and parts.there(has_accounting=False)[parts.names[4]])
    kill(process)
    assert {4} == {number for number, name in enumerate(parts.names) if parts.has_begun(name)}
    assert [False] * 5 + [True] == [array["is_new"] for array in parts.told(PATH=path)]
    assert 6 == calls(tmp_path / "bin")
    parts.each_once()


def test_timed_out_and_not_there(tmp_path: Path) -> None:
    """Where the controller did not answer and SLURM has not heard of the array, `submit` says that it does not know,
    ends with 2, and typed again submits; what was submitted before stays."""
    parts = Parts(tmp_path / "home", 3)
    path = wrapper(tmp_path / "bin", 'exec $REAL "$@"', TIMED_OUT)
    done = parts.program.tool("submit", PATH=path)
    assert 2 == done.returncode
    assert done.stderr.startswith("error: sbatch failed, and may have submitted the job nevertheless: Socket timed out")
    assert f"Whether {parts.names[1]} was submitted is not known yet" in done.stderr
    assert [True, False, False] == ["slurm_id" in parts.noted().get(name, {}) for name in parts.names]
    assert [False, True, True] == [array["is_new"] for array in parts.told()]
    parts.each_once()


def test_controller_stops_in_the_middle(tmp_path: Path) -> None:
    """A controller that takes the order and answers late: `submit` that waits finds it, `submit` that was killed
    meanwhile is typed again while nothing answers, and neither submits twice; also without accounting."""
    with reconfigured(accounting=False, extra=["MessageTimeout=3"]):
        waiting, killed = Parts(tmp_path / "one", 2), Parts(tmp_path / "two", 2)
        ready = f'touch "$0.ready"; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done'
        folders = [tmp_path / "bin1", tmp_path / "bin2"]
        patient, victim = (
            parts.submitting(PATH=wrapper(folder, ready))
            for parts, folder in zip((waiting, killed), folders, strict=True)
        )
        wait_until(lambda: all((folder / "sbatch.ready").exists() for folder in folders))
        with stopped_controller() as pid:
            (tmp_path / "go").touch()
            time.sleep(0.5)  # the orders lie with the controller
            kill(victim)
            time.sleep(3)  # the other one has waited for longer than the MessageTimeout
            again = killed.submitting()
            time.sleep(1)
            os.kill(pid, signal.SIGCONT)
            said = [process.communicate(timeout=60) for process in (patient, again)]
        assert [0, 0] == [patient.returncode, again.returncode], said
        for parts in (waiting, killed):
            parts.each_once(has_accounting=False)


def test_controller_that_does_not_come_back(tmp_path: Path) -> None:
    """While nothing answers, `submit` says so with 2 and submits nothing; afterwards it goes on."""
    parts = Parts(tmp_path / "home", 2)
    with reconfigured(extra=["MessageTimeout=2"]):
        with stopped_controller():
            done = parts.program.tool("submit")
        assert 2 == done.returncode
        assert done.stderr.startswith("error: squeue failed: Socket timed out")
        assert {} == parts.noted()
        parts.told()
        parts.each_once()


def test_two_at_once(tmp_path: Path) -> None:
    """Of several `submit` at the same time one submits, and all say the same ids."""
    parts = Parts(tmp_path / "home", 4)
    all_said = [json.loads(process.communicate()[0]) for process in [parts.submitting() for _ in range(3)]]
    ids = [[array["slurm_id"] for array in said] for said in all_said]
    assert ids[0] == ids[1] == ids[2]
    assert [4, 0, 0] == sorted((sum(array["is_new"] for array in said) for said in all_said), reverse=True)
    parts.each_once()


def sbatch_by_hand(script: Path, cwd: Path) -> str:
    done = subprocess.run(
        ["sbatch", "--parsable", str(script)], cwd=cwd, env=clean_env(), capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


def starts(parts: Parts) -> Sequence[float]:
    return [parts.record(job)["start"] for job in range(parts.n_parts)]


def test_submitted_by_hand_before(tmp_path: Path) -> None:
    """A script that somebody has given to sbatch, from wherever he was, is found by its name and not submitted again;
    the next ones of its chain wait for it."""
    parts = Parts(tmp_path / "home", 3, array_parallelism=1)
    by_hand = sbatch_by_hand(parts.scripts[0], Path("/"))
    said = parts.told()
    assert [(by_hand, False), True, True] == [
        (said[0]["slurm_id"], said[0]["is_new"]),
        *(x["is_new"] for x in said[1:]),
    ]
    parts.each_once()
    assert sorted(starts(parts)) == starts(parts)


def test_scripts_edited_by_hand(tmp_path: Path) -> None:
    """A script that was edited since it was written is used as it is; `submit` says so, and the launch keeps what was
    submitted. One that was removed at the top is taken from the launch."""
    parts = Parts(tmp_path / "home", 3)
    text = parts.scripts[1].read_text()
    edited = text.replace("#SBATCH --open-mode", "#SBATCH --comment=mine\n#SBATCH --open-mode")
    parts.scripts[1].write_text(edited)
    parts.scripts[2].unlink()
    done = parts.program.tool("submit")
    assert 0 == done.returncode, done.stderr
    said = done.stdout.splitlines()
    assert [False, True, False] == ["edited since it was written and submitted as it is" in line for line in said]
    assert edited == (parts.launch / parts.scripts[1].name).read_text()
    asked = ("squeue", "-h", "-t", "all", "-o", "%j|%k")
    wait_until(lambda: f"{parts.names[1]}|mine" in slurm(*asked))
    parts.each_once()
