"""SLURM's commands as far as a submission needs them: `sbatch` is atomic, tasks wait until somebody runs them.

This file is the program behind the names of SLURM's commands (see `install`), and knows the standard library alone.
FAULTS_SLURM names its folder: jobs/7 is a job array, jobs/7.ended how its tasks ended.
"""

import contextlib
import fcntl
import io
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

_MOST_S = 300.0
_GRACE_S = 20.0
"""So long a task that is to make room has for that."""

NAMES = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "srun")  # submitit asks whether there is srun


def install(folder: Path) -> None:
    """The commands are in that folder. They import this file, which is compiled once: a trial asks them ten times."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stand_in.py").write_bytes(Path(__file__).read_bytes())
    for name in NAMES:
        program = folder / name
        lines = ("import sys", f"sys.path.insert(0, {str(folder)!r})", "from stand_in import main", "main()")
        program.write_text("\n".join((f"#!{sys.executable} -ISs", *lines, "")))
        program.chmod(0o755)


def _jobs(place: Path) -> list[dict]:  # type: ignore[type-arg] # the program behind the names has no types to import
    found = [path for path in (place / "jobs").glob("*") if path.name.isdecimal()] if place.exists() else []
    return [json.loads(path.read_text()) for path in sorted(found, key=lambda path: int(path.name))]


def ended(place: Path, job: int) -> dict[str, str] | None:
    """How the runs of the tasks of an array ended, by index, with commas; None while they wait."""
    path = place / "jobs" / f"{job}.ended"
    return json.loads(path.read_text()) if path.exists() else None


def indices(text: str) -> list[int]:
    """Those of `--array=`."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def submitted(place: Path) -> list[tuple[str, int]]:
    """The name and the index of each task that was ever submitted."""
    return [(job["name"], index) for job in _jobs(place) for index in indices(job["array"])]


def run_tasks(place: Path, env: dict[str, str], cwd: Path, *, is_preempted: bool = False) -> str:
    """What waits has run, in order, as SLURM would have run it; returns what the scripts have printed. `is_preempted`:
    each has to make room once its job has noted that it runs, and is started again. Raises subprocess.TimeoutExpired.
    """
    said = ""
    for job in _jobs(place):
        if ended(place, job["id"]) is not None:
            continue
        ends = {}
        for index in indices(job["array"]):
            of_task = {
                "SLURM_JOB_ID": str(1000 * job["id"] + index),
                "SLURM_ARRAY_JOB_ID": str(job["id"]),
                "SLURM_ARRAY_TASK_ID": str(index),
                "SLURM_JOB_NAME": job["name"],
                "SLURMD_NODENAME": "n1",
            }
            task = {**env, **of_task}
            if is_preempted:
                said += _run(job["text"], {**task, "SEVEN_WAITS": "1"}, cwd, make_room=True)[1]
                task["SLURM_RESTART_COUNT"] = "1"
            status, printed = _run(job["text"], task, cwd)
            said += printed
            last = {0: "COMPLETED", -9: "OUT_OF_MEMORY"}.get(status, "FAILED")
            ends[index] = f"PREEMPTED,{last}" if is_preempted else last
        (place / "jobs" / f"{job['id']}.ended").write_text(json.dumps(ends))
    return said


def _run(script: str, env: dict[str, str], cwd: Path, *, make_room: bool = False) -> tuple[int, str]:
    """The exit status of a batch script, and what it has printed. Raises subprocess.TimeoutExpired."""
    import subprocess  # as few as can be for the commands

    with tempfile.TemporaryFile() as out:
        task = subprocess.Popen(["bash", "-c", script], cwd=cwd, env=env, stdout=out, stderr=out)
        try:
            if make_room:
                _make_room(task, env)
            status = task.wait(_MOST_S)
        finally:
            task.kill()
            task.wait()
        out.seek(0)
        return status, out.read().decode(errors="replace")


def _make_room(task: "subprocess.Popen[bytes]", env: dict[str, str]) -> None:
    """All processes of a task are told to end when its job has noted that it runs, and are killed where they do not."""
    marks = {
        f"{name}={env[name]}".encode() for name in ("SLURM_JOB_ID", "FAULTS_RUNS")
    }  # the latter of this place alone
    deadline = time.monotonic() + _MOST_S
    runs = Path(env["FAULTS_RUNS"])
    n_noted = runs.read_text().count("process:") if runs.exists() else 0
    while task.poll() is None and time.monotonic() < deadline:
        if runs.exists() and runs.read_text().count("process:") > n_noted:
            break
        time.sleep(0.01)
    for number, wait_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, 0.0)):
        for process in _with(marks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        deadline = time.monotonic() + wait_s
        while _with(marks) and time.monotonic() < deadline:
            task.poll()
            time.sleep(0.01)


def _with(marks: set[bytes]) -> list[int]:
    """The processes that have all of this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marks.issubset(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
    return found


# ---------------------------------------------------------------- the commands


def _sbatch(place: Path, words: list[str]) -> None:
    script = next(word for word in words if not word.startswith("-"))
    text = Path(script).read_text()
    said = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))
    said.update(word[2:].partition("=")[::2] for word in words if word.startswith("--") and "=" in word)
    folder = place / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder / f".{os.getpid()}"
    number = 1
    while True:
        while (folder / str(number)).exists():
            number += 1
        about = {"id": number, "name": said["job-name"], "array": said.get("array", "0")}
        mine.write_text(json.dumps({**about, "script": os.path.realpath(script), "text": text}))
        try:
            os.link(mine, folder / str(number))
        except FileExistsError:
            continue
        break
    with contextlib.suppress(OSError):
        mine.unlink()  # whoever is killed here has submitted, and told nobody
    print(number if "--parsable" in words else f"Submitted batch job {number}")


def _squeue(place: Path) -> None:
    for job in _jobs(place):
        if ended(place, job["id"]) is None:
            user = os.environ.get("USER") or "root"
            row = f"{job['id']}|{job['array']}|{job['id']}|PENDING|Priority|N/A|1:00:00||{user}"
            print(f"{row}|{job['name']}|{job['script']}")


def _sacct(place: Path) -> None:
    for job in _jobs(place):
        ends = ended(place, job["id"])
        if ends is None:
            row = f"{job['id']}_[{job['array']}]|{job['id']}|PENDING|0:0|Unknown|Unknown|None assigned|{job['name']}"
            print(row)
        for index, end in ((index, end) for index, runs in (ends or {}).items() for end in runs.split(",")):
            code = {"FAILED": "1:0", "OUT_OF_MEMORY": "0:125"}.get(end, "0:0")
            print(f"{job['id']}_{index}|{1000 * job['id'] + int(index)}|{end}|{code}|1|2|n1|{job['name']}")


def _scancel(place: Path, words: list[str]) -> None:
    for word in words:
        job = int(re.match(r"\d+", word)[0]) if word[:1].isdigit() else 0  # type: ignore[index]
        record = place / "jobs" / str(job)
        if job and record.exists() and ended(place, job) is None:
            array = json.loads(record.read_text())["array"]
            ends = dict.fromkeys(indices(array), f"CANCELLED by {os.getuid()}")
            new = record.with_name(f".{os.getpid()}.ends")
            new.write_text(json.dumps(ends))
            new.rename(record.with_name(f"{job}.ended"))


_UNANSWERED = {
    "away": "Unable to contact slurm controller (connect failure)",
    "late": "Socket timed out on send/recv operation",
}
"""What SLURM says: where nothing was done, and where what was asked was done and nobody has heard of it."""

_TELLS = {
    "sbatch": "sbatch: error: Batch job submission failed: {}",
    "squeue": "slurm_load_jobs error: {}",
    "sacct": "sacct: error: Problem talking to the database: Connection refused",
    "scontrol": "slurm_load_ctl_conf error: {}",
}


def _does(name: str, words: list[str]) -> str | None:
    """What the injector has this command do instead of answering: a key of `_UNANSWERED`; None: nothing."""
    with open(os.environ["FAULTS_ASKED"], "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = len(file.readlines()) + 1
        file.write(f"{name} {' '.join(words)[:200]}\n".replace("\n", " ").rstrip() + "\n")
    if not (fault := os.environ.get("FAULTS_OF_SLURM")):
        return None
    what, at, is_from_then_on = fault.split()
    return what if number == int(at) or (number > int(at) and is_from_then_on == "1") else None


def main() -> None:
    """The command that this program is named after."""
    place, name, words = Path(os.environ["FAULTS_SLURM"]), Path(sys.argv[0]).name, sys.argv[1:]
    does = _does(name, words) if "FAULTS_ASKED" in os.environ else None
    try:
        if does != "away":
            with contextlib.redirect_stdout(io.StringIO()) if does else contextlib.nullcontext():
                _do(name, place, words)
    except OSError as error:
        what = {
            "sbatch": "Batch job submission failed: I/O error writing script/environment to file",
            "squeue": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        }.get(name, f"{error.strerror}")
        sys.exit(f"{name}: error: {what}")
    if does:
        sys.exit(_TELLS.get(name, f"{name}: error: {{}}").format(_UNANSWERED[does]))


def _do(name: str, place: Path, words: list[str]) -> None:
    if name == "sbatch":
        _sbatch(place, words)
    elif name == "squeue":
        _squeue(place)
    elif name == "sacct":
        _sacct(place)
    elif name == "scancel":
        _scancel(place, words)
    elif name == "scontrol":
        print("MaxArraySize            = 1001")
