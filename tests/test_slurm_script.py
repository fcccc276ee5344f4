"""Array scripts, compared whole with the files in tests/golden, and run by the real bash.

EXPERIMENT_MANAGER_WRITE_GOLDEN=1 writes the golden files anew; read the difference before you keep it.
"""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.errors import OptionsError
from experiment_manager.scheduler.arrays import Array, arrays
from experiment_manager.scheduler.records import Limits, Place
from experiment_manager.scheduler.slurm.options import make
from experiment_manager.scheduler.slurm.script import log_pattern, render, warning_s
from tests.conftest import wait_until

GOLDEN = Path(__file__).parent / "golden"
PLAIN = Place("/home/me/experiments", "train", "0001", "train-x1y2z3a4", "/home/me/logs", "/venv/bin/python")
HOSTILE_PATH = '/tmp/it\'s a $(touch pwned) "quoted" 50% \\back `tick` #hash ü'
HOSTILE = Place(HOSTILE_PATH, "$HOME; exit 3", "0002", "home-x1y2z3a4", f"{HOSTILE_PATH}/logs", "/venv/my python")
EVERYTHING: Mapping[str, Any] = {
    "timeout_min": 90,
    "mem_gb": 1.5,
    "nodes": 2,
    "tasks_per_node": 4,
    "cpus_per_task": 3,
    "gpus_per_node": 1,
    "partition": "gpu,long",
    "qos": "high",
    "comment": "it's #1; $(date)",
    "constraint": "a100&ib",
    "exclude": "n[1-3]",
    "gres": "disk:1",
    "account": "lab 7",
    "signal_delay_s": 300,
    "array_parallelism": 2,
    "max_requeues": 3,
    "setup": ["module purge"],
    "pre_script": ["module load cuda", 'export NOTE="a b"'],
    "additional_parameters": {"mail-type": "END", "exclusive": True, "nice": 10},
}
CASES: Mapping[str, tuple[Place, Mapping[str, Any], list[int], int]] = {
    "plain": (PLAIN, {}, [0, 1, 2], 1001),
    "everything": (PLAIN, EVERYTHING, [0, 1, 2, 5], 1001),
    "lines_after": (PLAIN, {"post_script": ["module unload cuda", "false"]}, [3], 1001),
    "packed": (PLAIN, {"pack": 2, "mem_gb": 0}, [4, 5, 9], 1001),
    "table": (PLAIN, {"timeout_min": 0}, list(range(2000, 2030)), 1001),
    "no_gpus": (PLAIN, {"gpus_per_node": 0, "gpus_per_task": 0, "max_requeues": 0}, [0], 1001),
    "part": (
        PLAIN._replace(part=2, n_parts=3),
        {"max_requeues": 1, "timeout_min": 600, "mail": "me@uni"},
        [*range(7)],
        1001,
    ),
    "hostile": (HOSTILE, {"pre_script": ["echo 'as it is' $HOME"], "comment": "a\\b"}, [0, 7], 1001),
}


def array_of(options: Mapping[str, Any], ids: list[int], limit: int = 1001) -> Array:
    (array,) = arrays([(make(options, where="test"), ids)], Limits(limit, 4000))
    return array


@pytest.mark.parametrize("name", CASES)
def test_script_is_the_golden_one(name: str) -> None:
    """The whole text, to the last letter, is the one that was read and approved."""
    place, options, ids, limit = CASES[name]
    text = render(array_of(options, ids, limit), place)
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("EXPERIMENT_MANAGER_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


def test_every_golden_file_is_compared() -> None:
    """No file lies there that no test reads, and bash can read them all."""
    assert {f"{name}.sh" for name in CASES} == {path.name for path in GOLDEN.iterdir()}
    for path in GOLDEN.iterdir():
        assert 0 == subprocess.run(["bash", "-n", str(path)], check=False).returncode


@pytest.fixture
def told(tmp_path: Path) -> tuple[str, Path]:
    """A program, in a folder with a hostile name, that writes its arguments down; and where it writes them."""
    folder = tmp_path / "it's $(false) ü"
    folder.mkdir()
    program, said = folder / "my python", tmp_path / "said"
    program.write_text(f"#!/bin/bash\nprintf '%s\\0' \"$@\" > {shlex.quote(str(said))}\n")
    program.chmod(0o755)
    return str(program), said


def run(text: str, index: int, folder: Path) -> "subprocess.CompletedProcess[str]":
    script = folder / "script.sh"
    script.write_text(text)
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index)}
    return subprocess.run(["bash", str(script)], cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("after", [[], ["true"]])
def test_bash_hands_over_the_very_same_strings(told: tuple[str, Path], tmp_path: Path, after: list[str]) -> None:
    """Spaces, quotes, `$(...)`, a backslash, UTF-8: nothing is run, split or lost on the way."""
    program, said = told
    place = HOSTILE._replace(python=program)
    done = run(render(array_of({"post_script": after}, [0, 7]), place), 7, tmp_path)
    assert 0 == done.returncode, done.stderr
    expected = ["-P", "-m", "experiment_manager", "run", "--experiment-path", HOSTILE.experiment_path]
    expected += ["--experiment-name", HOSTILE.experiment_name, "--launch", "0002"]
    expected += ["--array", HOSTILE.job_name, "--job-id", "7"]
    assert expected == said.read_text().split("\0")[:-1]
    assert not (tmp_path / "pwned").exists()


def test_table_leads_from_the_index_to_the_jobs(told: tuple[str, Path], tmp_path: Path) -> None:
    """A task of a packed array, or of one with ids beyond the limit, gets its own jobs."""
    program, said = told
    ids = list(range(5000, 6500))
    text = render(array_of({"pack": 3}, ids), PLAIN._replace(python=program))
    assert 0 == run(text, 499, tmp_path).returncode
    assert "6497,6498,6499" == said.read_text().split("\0")[-2]


@pytest.mark.parametrize("status", [0, 3, 139])
def test_status_of_the_job_survives_what_comes_after(tmp_path: Path, status: int) -> None:
    """`post_script` runs whatever became of the job, and does not change how the script ends."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/bash\nexit {status}\n")
    program.chmod(0o755)
    text = render(array_of({"post_script": ["echo after", "false"]}, [0]), PLAIN._replace(python=str(program)))
    done = run(text, 0, tmp_path)
    assert (status, "after\n") == (done.returncode, done.stdout)


LISTENER = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"warned\\n"))  # print may not be called inside of itself
def end(*_):
    os.write(1, b"told\\n")
    pathlib.Path(os.environ["EXPERIMENT_MANAGER_STATUS_FILE"]).write_text("5 \\n")  # which `wait` of bash can lose
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
while True:
    time.sleep(0.05)
"""


def test_signals_reach_the_job_behind_the_shell(tmp_path: Path) -> None:
    """What SLURM sends to the batch shell alone is passed on, and the script waits for the job all the same."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{LISTENER}")
    program.chmod(0o755)
    script = tmp_path / "script.sh"
    script.write_text(render(array_of({"post_script": ["echo after"]}, [0]), PLAIN._replace(python=str(program))))
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "0"}
    with subprocess.Popen(["bash", str(script)], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as shell:
        wait_until((tmp_path / "ready").exists)
        shell.send_signal(signal.SIGUSR1)
        assert shell.stdout is not None
        warned = shell.stdout.readline()  # two signals at once may come in any order
        shell.send_signal(signal.SIGTERM)
        said, _ = shell.communicate(timeout=30)
    assert (5, ["warned", "told", "after"]) == (shell.returncode, (warned + said).splitlines())


@pytest.mark.parametrize("path", ["/a\nb", "/a\x00b", "/a\rb"])
def test_path_that_no_line_can_hold_is_refused(path: str) -> None:
    """A line break would become a line of the script."""
    with pytest.raises(OptionsError, match="control character; choose another folder"):
        render(array_of({}, [0]), PLAIN._replace(experiment_path=path))


@pytest.mark.parametrize(("limit", "delay", "seconds"), [(None, 120, 120), (60, 120, 120), (2, 120, 60), (0, 120, 120)])
def test_warning_never_comes_at_once(limit: int | None, delay: int, seconds: int) -> None:
    """A warning that is due before the job begins would stop it at once: half of the time limit is the most."""
    assert seconds == warning_s(make({"timeout_min": limit, "signal_delay_s": delay}, where="test"))


def test_letters_are_those_that_were_asked_for() -> None:
    """SLURM writes when the array has ended; whoever names other occasions gets those."""
    options = {"mail": "me@uni", "additional_parameters": {"mail-type": "ALL,ARRAY_TASKS"}}
    head = [line for line in render(array_of(options, [0]), PLAIN).splitlines() if "mail" in line]
    assert ["#SBATCH --mail-user=me@uni", "#SBATCH --mail-type=ALL,ARRAY_TASKS"] == head


@pytest.mark.parametrize("name", ["max_requeues", "max_num_timeout"])
def test_job_that_may_start_again_is_warned(name: str) -> None:
    """Without a warning a job is over when its time is; to start again it has to leave before."""
    assert 120 == warning_s(make({name: 1}, where="test"))
    assert 30 == warning_s(make({name: 1, "timeout_min": 1}, where="test"))
    assert 0 == warning_s(make({name: 0}, where="test"))
    assert 0 == warning_s(make({name: 1, "signal_delay_s": 0}, where="test"))
    assert 7 == warning_s(make({name: 1, "signal_delay_s": 7}, where="test"))


def test_log_of_a_folder_that_slurm_cannot_name() -> None:
    """SLURM expands nothing in a name with a backslash, and takes a percent sign for a pattern."""
    assert ("/a 50%%/%A_%a.log", "/dev/null") == (log_pattern("/a 50%"), log_pattern("/a\\b"))


def python_that(tmp_path: Path, *lines: str) -> Place:
    """A place whose Python is a shell script with these lines."""
    program = tmp_path / "python"
    program.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    program.chmod(0o755)
    return PLAIN._replace(python=str(program))


@pytest.mark.parametrize("after", [[], ["true"]])
def test_early_warning_does_not_end_the_script(tmp_path: Path, after: list[str]) -> None:
    """A warning during `pre_script`, or before the job can hear it, ends neither of them."""
    place = python_that(tmp_path, "kill -USR1 $$; kill -USR2 $$; exit 3")
    options = {"pre_script": ["kill -USR1 $$", "kill -USR2 $$"], "post_script": after}
    assert 3 == run(render(array_of(options, [0]), place), 0, tmp_path).returncode


@pytest.mark.parametrize("line", ["exit 0", "set -e; false; echo unreached", "kill -USR1 $$; kill -TERM $$"])
def test_status_survives_lines_that_end_the_shell(tmp_path: Path, line: str) -> None:
    """Whatever `post_script` does to the shell, also under `set -euo pipefail`, the status is that of the job."""
    options = {"pre_script": ["set -euo pipefail"], "post_script": [line]}
    done = run(render(array_of(options, [0]), python_that(tmp_path, "exit 3")), 0, tmp_path)
    assert (3, "", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(("line", "said"), [("true", "requeue 12_7\n"), ("exit 0", "requeue 12_7\n"), ("kill $$", "")])
def test_task_is_started_again_after_the_lines(tmp_path: Path, line: str, said: str) -> None:
    """SLURM ends what it starts again, so it is asked after `post_script`; not where somebody ends the task then."""
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/said\n')
    (tmp_path / "scontrol").chmod(0o755)
    place = python_that(tmp_path, 'echo "75 12_7" > "$EXPERIMENT_MANAGER_STATUS_FILE"; exit 75')
    path = f"export PATH={tmp_path}:$PATH"
    options = {"pre_script": [path], "post_script": [f"[ ! -e {tmp_path}/said ] || exit 1", line]}
    assert 75 == run(render(array_of(options, [0]), place), 0, tmp_path).returncode
    told = tmp_path / "said"
    assert said == (told.read_text() if told.exists() else "")


STATUS_IN_A_STORM = """
import os, signal, time
for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda *_: None)
open("ready", "w").close()
end = time.monotonic() + 0.5
while time.monotonic() < end:
    time.sleep(0.01)
open("done", "w").close()
with open(os.environ["EXPERIMENT_MANAGER_STATUS_FILE"], "w") as file:
    file.write("3\\n")
os._exit(3)
"""


@pytest.mark.parametrize("seed", range(6))
def test_shell_waits_for_the_job_in_a_storm(tmp_path: Path, seed: int) -> None:
    """Bursts of warnings do not make bash believe that the job has ended, nor lose its status."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{STATUS_IN_A_STORM}")
    program.chmod(0o755)
    script = tmp_path / "script.sh"
    options = {"post_script": ["[ -e done ] && echo after"]}
    script.write_text(render(array_of(options, [0]), PLAIN._replace(python=str(program))))
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "0"}
    gaps = random.Random(seed)
    with subprocess.Popen(["bash", str(script)], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) as shell:
        wait_until((tmp_path / "ready").exists)
        while shell.poll() is None:
            shell.send_signal(gaps.choice([signal.SIGUSR1, signal.SIGUSR2]))
            time.sleep(gaps.choice([0, 0.0003, 0.001, 0.004]))
        said, _ = shell.communicate(timeout=30)
    assert (3, "after\n") == (shell.returncode, said)
