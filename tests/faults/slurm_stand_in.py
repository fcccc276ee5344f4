"""SLURM's commands as far as a submission needs them: `sbatch` is atomic, tasks wait until somebody runs them.

This file is the program behind the names of SLURM's commands (see `install`), and knows the standard library alone.
FAULTS_SLURM names its folder: jobs/7 is a job array, jobs/7.ended how its tasks ended.
"""

import contextlib
import json
import os
import re
import sys
from pathlib import Path

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
    """How the tasks of an array ended, by index; None while they wait."""
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


def run_tasks(place: Path, env: dict[str, str], cwd: Path) -> str:
    """What waits has run, in order, as SLURM would have run it; returns what the scripts have printed. Raises
    subprocess.TimeoutExpired."""
    import subprocess  # as few as can be for the commands

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
            done = subprocess.run(
                ["bash", "-c", job["text"]],
                cwd=cwd,
                env={**env, **of_task},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=90,
            )
            said += done.stdout.decode(errors="replace")
            ends[index] = {0: "COMPLETED", -9: "OUT_OF_MEMORY"}.get(done.returncode, "FAILED")
        (place / "jobs" / f"{job['id']}.ended").write_text(json.dumps(ends))
    return said


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
        for index, end in (ends or {}).items():
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


def main() -> None:
    """The command that this program is named after."""
    place, name, words = Path(os.environ["FAULTS_SLURM"]), Path(sys.argv[0]).name, sys.argv[1:]
    try:
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
    except OSError as error:
        what = {
            "sbatch": "Batch job submission failed: I/O error writing script/environment to file",
            "squeue": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        }.get(name, f"{error.strerror}")
        sys.exit(f"{name}: error: {what}")
