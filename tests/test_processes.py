"""Whether a process still lives: yes, no, or nobody here can know."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiment_manager.store import processes
from experiment_manager.store.files import writer_is_gone
from experiment_manager.store.lock import Busy, _linked, left_by
from tests.conftest import booted_at, wait_until

WHO = """
import json
from experiment_manager.store import processes
print(json.dumps(processes.this_process()), flush=True)
"""


HIDES = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
"""What many login nodes do: nobody sees the processes of others."""

OTHER_BOOT = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
HOLDS = """
import errno, fcntl, json, sys
from experiment_manager.store import processes
from experiment_manager.store.lock import Lock

def flock(*_):
    raise OSError(errno.ENOLCK, "no locks")

fcntl.flock = flock
lock = Lock(sys.argv[1], wait_s=0)
print(json.dumps(processes.this_process()), flush=True)
sys.stdin.read()
lock.release()
"""

ASKS = """
import json, os
from experiment_manager.store import processes

def become(uid):
    os.setgroups([])
    os.setgid(uid or 1)  # the group of root sees all
    os.setuid(uid)

def asked(uid, record):
    ours, its = os.pipe()
    if not (pid := os.fork()):
        become(uid)
        os.write(its, json.dumps([processes.is_gone(record), processes.is_alive(record["pid"])]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return json.loads(os.read(ours, 4096))

(ours, its), (hold, release) = os.pipe(), os.pipe()
if not (pid := os.fork()):
    os.close(release)
    become(1001)
    os.write(its, json.dumps(processes.this_process()).encode())
    os.read(hold, 1)
    os._exit(0)
record = json.loads(os.read(ours, 4096))
of_another = {**record, "started_ticks": record["started_ticks"] - 1}
said = {"colleague": asked(1002, record), "later": asked(1002, of_another), "root": asked(0, record)}
said["own before"] = asked(1002, {**of_another, "uid": 1002})
said["own, hidden"] = asked(1001, record)  # which has changed its user, and may not be traced
os.close(release)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
said["zombie"] = asked(1002, record)
os.waitpid(pid, 0)
print(json.dumps({**said, "ended": asked(1002, record)}))
"""


class Child:
    """A process that has said who it is, and that waits until its input ends."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{WHO}\nimport sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.record: dict[str, Any] = json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.end()


def test_this_process_is_not_gone() -> None:
    """Who we are says so, through JSON and back, and we are not gone."""
    me = processes.this_process()
    assert os.getpid() == me["pid"]
    assert os.uname().nodename == me["host"]
    assert me == json.loads(json.dumps(me))
    assert me == processes.this_process()
    assert False is processes.is_gone(me)
    assert False is processes.is_gone({**me, "job": 7, "launch": None})


def test_a_copy_is_a_process_of_its_own() -> None:
    """A process that was forked from one which has said who it is says who it is itself, and is not gone."""
    us = processes.this_process()
    (ours, its), (hold, release) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.close(release)
        os.write(its, json.dumps(processes.this_process()).encode())
        os.read(hold, 1)
        os._exit(0)
    copy = json.loads(os.read(ours, 4096))
    assert (pid, us["boot"], us["namespace"]) == (copy["pid"], copy["boot"], copy["namespace"])
    assert False is processes.is_gone(copy)
    assert True is processes.is_gone({**us, "pid": pid, "started_ticks": us["started_ticks"] - 1})
    for handle in (ours, its, hold, release):
        os.close(handle)
    os.waitpid(pid, 0)
    assert True is processes.is_gone(copy)


def test_living_child_is_not_gone(child: Child) -> None:
    """Another process that lives is not gone, however often it is asked."""
    assert child.process.pid == child.record["pid"]
    assert [False] * 3 == [processes.is_gone(child.record) for _ in range(3)]


def test_stopped_child_is_not_gone(child: Child) -> None:
    """A process that somebody has stopped (Ctrl-Z) still holds its job."""
    os.kill(child.process.pid, 19)
    assert False is processes.is_gone(child.record)
    os.kill(child.process.pid, 18)


def test_dead_child_is_gone(child: Child) -> None:
    """A process that has ended and been reaped is gone."""
    child.end()
    assert True is processes.is_gone(child.record)


def test_zombie_is_gone(child: Child) -> None:
    """A process that has ended runs nothing, even while nobody has reaped it."""
    child.process.kill()
    os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    assert os.path.exists(f"/proc/{child.process.pid}")
    assert True is processes.is_gone(child.record)
    assert not processes.is_alive(child.process.pid)  # nor does it write the files that it has begun


def test_other_host_is_unknown() -> None:
    """Of a process on another host nobody here can know, whatever the rest of the record says."""
    me = processes.this_process()
    assert None is processes.is_gone({**me, "host": "another-host"})
    assert None is processes.is_gone({**me, "host": "another-host", "boot": "another", "pid": 1})
    assert None is processes.is_gone({})


def test_only_what_ran_before_this_boot_is_gone() -> None:
    """What ran under another boot of this host has ended where that was before this boot, by more than clocks differ;
    else it may run on another machine of this name."""
    record = {**processes.this_process(), "boot": "00000000-0000-0000-0000-000000000000"}
    booted = booted_at()
    assert True is processes.is_gone({**record, "start": booted - 3600})
    for start in (booted - 60, booted + 60, time.time(), None, True, "long ago"):
        assert None is processes.is_gone({**record, "start": start}), start


@pytest.mark.parametrize("start", [None, -10, -3600, 60])
def test_what_has_written_a_file_before_this_boot_is_gone(tmp_path: Path, start: float | None) -> None:
    """However shortly before, by the clock of the file system, and whatever the record tells of the time; of what has
    written later nobody can know, unless the record tells of a time long before this boot."""
    path, booted = tmp_path / "record", booted_at()
    record = {**processes.this_process(), "boot": "00000000-0000-0000-0000-000000000000"}
    del record["start"]  # as versions before wrote it
    record |= {} if start is None else {"start": booted + start}
    path.touch()
    assert (True if start == -3600 else None) is writer_is_gone(str(path), record)
    os.utime(path, (booted - 2, booted - 2))
    assert True is writer_is_gone(str(path), record)
    assert None is writer_is_gone(str(path), {**record, "host": "another-host"})
    assert False is writer_is_gone(str(path), processes.this_process())
    assert [path] == list(tmp_path.iterdir())
    path.unlink()
    assert (True if start == -3600 else None) is writer_is_gone(str(path), record)


def test_another_machine_of_this_name_is_not_gone(tmp_path: Path) -> None:
    """Of a process on a machine that has our name, and another boot, nobody here can know: its locks are its own."""
    inside = ["unshare", "--mount", "sh", "-c", OTHER_BOOT, "sh", str(tmp_path / "boot")]
    (tmp_path / "boot").write_text("11111111-2222-4333-8444-555555555555\n")
    if os.geteuid() != 0 or subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root can have another boot")
    path = str(tmp_path / "lock")
    with subprocess.Popen(
        [*inside, sys.executable, "-c", HOLDS, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        record = json.loads(other.stdout.readline())
        assert (os.uname().nodename, "11111111-2222-4333-8444-555555555555") == (record["host"], record["boot"])
        assert None is processes.is_gone(record)
        assert None is writer_is_gone(f"{path}.held", record)
        with pytest.raises(Busy, match=rf"process {record['pid']} on .* \(remove that file if it does not run there"):
            _linked(f"{path}.held", 0.0)
        assert "which cannot be asked from here" in (left_by(path) or "")
        other.communicate("")
    assert 0 == other.returncode


@pytest.mark.parametrize(("theirs", "ours"), [(None, "b"), ("b", None)])
def test_a_boot_that_is_not_shown_is_not_another_one(
    theirs: str | None, ours: str | None, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is not shown which boot this is, as in a sandbox, knows nothing of who is, nor the other way round."""
    me = {**processes.this_process(), "boot": ours}
    monkeypatch.setattr(processes, "this_process", lambda: me)
    assert None is processes.is_gone({**child.record, "boot": theirs})
    assert None is processes.is_gone({**child.record, "boot": theirs, "started_ticks": 1})


def test_what_is_hidden_is_not_gone() -> None:
    """Of a process that /proc hides, as that of a colleague on a login node, is known that something has its number,
    and not that it has ended; once nothing has the number, it is gone, and so is one of ours whose number somebody else
    has now."""
    inside = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", HIDES, "sh"]
    if os.geteuid() != 0 or subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root can hide processes")
    said = subprocess.run([*inside, sys.executable, "-c", ASKS], check=True, stdout=subprocess.PIPE)
    expected = {"colleague": [None, True], "later": [None, True], "zombie": [None, True]}
    expected |= {"own, hidden": [None, True], "own before": [True, True]}
    assert {**expected, "root": [False, True], "ended": [True, False]} == json.loads(said.stdout)


def test_what_cannot_be_read_is_not_gone(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc cannot be read for a moment, as without a free handle, nobody is gone or dead that has a number."""
    processes.this_process()
    monkeypatch.setattr(processes, "_read", lambda _: None)
    assert None is processes.is_gone(child.record)
    assert processes.is_alive(child.process.pid)


def test_other_pid_namespace_is_unknown() -> None:
    """Pids of another container on this host mean nothing here."""
    assert None is processes.is_gone({**processes.this_process(), "namespace": "pid:[1]"})


def test_pid_that_is_used_again_is_gone(child: Child) -> None:
    """A pid that another process has got since is told by when that process started."""
    assert True is processes.is_gone({**child.record, "started_ticks": child.record["started_ticks"] - 1})
    assert True is processes.is_gone({**processes.this_process(), "started_ticks": 1})


def test_processes_started_one_after_another_differ() -> None:
    """The start of a process is its own: a child that began later has later ticks."""
    first = Child()
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * ticks_a_second > first.record["started_ticks"] + 1)
    second = Child()
    assert first.record["started_ticks"] < second.record["started_ticks"]
    assert first.record["boot"] == second.record["boot"]
    first.end()
    second.end()


def test_name_of_a_program_may_hold_anything(tmp_path: Path) -> None:
    """Brackets and spaces in the name of a program do not confuse who it is."""
    program = tmp_path / "a) R 1 (b"
    program.write_text(f"#!/bin/sh\n{sys.executable} -c 'import time; time.sleep(0)'\nread line\n")
    program.chmod(0o755)
    process = subprocess.Popen([program], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: program.name == Path(f"/proc/{process.pid}/comm").read_text().strip())
        with open(f"/proc/{process.pid}/stat") as file:
            ticks = int(file.read().rpartition(") ")[2].split()[19])
        record = {**processes.this_process(), "pid": process.pid}
        assert False is processes.is_gone({**record, "started_ticks": ticks})
        assert True is processes.is_gone({**record, "started_ticks": ticks + 1})
    finally:
        process.communicate()


def test_process_of_another_user_is_seen() -> None:
    """Process 1 belongs to somebody else and lives."""
    with open("/proc/1/stat") as file:
        ticks = int(file.read().rpartition(") ")[2].split()[19])
    assert False is processes.is_gone({**processes.this_process(), "pid": 1, "started_ticks": ticks})
