"""`make fuzz`: what reads texts and files of others is given bytes that libFuzzer makes of real ones, for some time.

    python -m tests.fuzz --seconds 60                 every reader for a minute, and a table
    python -m tests.fuzz --seconds 600 filter squeue  two of them for ten

Whatever they are given, they answer, or raise an error of ours, within ten seconds and 2 GB. What breaks that is kept
in `build/fuzz`, in a folder of the reader; what was tried before is gone on from.
"""

import argparse
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent
LINES: Final = ROOT / "tests/slurm_lines"
MOST_S, MOST_MB, MOST_BYTES = 10, 2048, 8192

Reader = Callable[[bytes], object]


class Target(NamedTuple):
    """What makes a reader in the process that fuzzes, and texts for it to begin with."""

    reader: Callable[[Path], Reader]
    seeds: Sequence[bytes]


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _filter(_: Path) -> Reader:
    from experiment_manager.model import filters
    from experiment_manager.model.facts import Facts
    from experiment_manager.model.records import Job, JobId, State

    jobs = [Job(JobId(seed), "", {"seed": seed, "algorithm": "TD3"}, (), "", None) for seed in range(3)]
    known = Facts(frozenset({"seed", "algorithm"}), range(3), lambda job: job.variables, lambda _: State.FAILED)

    def read(data: bytes) -> object:
        text = _text(data)
        if "." in text and all(part.isidentifier() for part in text.strip().split(".")):
            return None  # the path of a function, which is asked to be called
        return filters.apply(filters.parse(text), jobs, known)

    return read


def _slurm(name: str) -> Callable[[Path], Reader]:
    def reader(_: Path) -> Reader:
        from experiment_manager.scheduler.slurm import parse

        found: Reader = {
            "squeue": lambda data: [row.indices and list(row.indices)[:9] for row in parse.parse_squeue(_text(data))],
            "sacct": lambda data: [parse.final_state(run.word) for run in parse.parse_sacct(_text(data))],
            "scontrol": lambda data: parse.parse_config(_text(data)),
            "log": lambda data: (parse.words_in_log(_text(data)), parse.without_daemons(_text(data))),
        }[name]
        return found

    return reader


def _job(_: Path) -> Reader:
    """What `scontrol show job` prints, of a task whose id the text itself may tell."""
    from experiment_manager.model.records import Task
    from experiment_manager.scheduler.slurm import scheduler

    def read(data: bytes) -> object:
        text = _text(data)
        named = re.search(r"JobId=(\S+) ", text)
        task = Task("slurm", named[1] if named else "7")
        return scheduler._fields_in(text, task), scheduler._says_ended(text, task)

    return read


def _sbatch(_: Path) -> Reader:
    """What `sbatch` prints: the id of the job, or why there is none."""
    from experiment_manager.scheduler.slurm import client

    def read(data: bytes) -> object:
        text = _text(data)
        assert "\n" not in client.refusal(text, has_been_cut_off=False).words
        found = client.submitted_id(text, "")
        assert found.isdecimal()
        return found

    return read


def _ids(_: Path) -> Reader:
    from experiment_manager.model.ids import format_ids, parse_ids

    def read(data: bytes) -> object:
        found = parse_ids(_text(data))
        if len(found.ranges) < 100 and all(len(one) < 100 for one in found.ranges):
            assert list(found) == list(parse_ids(format_ids(found)))
        return found

    return read


def _names(_: Path) -> Reader:
    from experiment_manager.store import states

    return lambda data: states._attempts_in(_text(data).split("\n"))


def _words(_: Path) -> Reader:
    from experiment_manager.model.secrets import masked_words

    return lambda data: masked_words(_text(data).split("\0"))


def _settings(_: Path) -> Reader:
    from experiment_manager.cli.following import settings_of

    return lambda data: settings_of(_text(data).split("\0"))


def _configuration(_: Path) -> Reader:
    import json

    from experiment_manager.model import codec, facts

    def read(data: bytes) -> object:
        try:
            encoded = codec.encode(json.loads(data))
        except (ValueError, RecursionError):
            return None
        return facts.resolved(encoded), codec.readable(encoded), codec.as_json(codec.decode(encoded))

    return read


def _records(place: Path) -> Reader:
    from experiment_manager.model import healing, stages
    from experiment_manager.store import documents as docs

    path = str(place / "record.json")
    shapes = [docs.ANCHOR, docs.END, docs.ERROR, docs.RESULT, docs.LAUNCH, docs.SUBMISSION, docs.PROPOSAL]

    def read(data: bytes) -> object:
        Path(path).write_bytes(data)
        found = [docs.read_optional(path, shape, lambda _: None) for shape in [*shapes, docs.SELECTION, docs.ARRAY]]
        return stages.trouble(found[0]), healing.is_rule(found[4].get("heals")), docs.last_line(path)

    return read


def _of_file(name: Callable[[Any], str], read: Callable[[Any], object]) -> Callable[[Path], Reader]:
    """What reads one file of an experiment: `name` tells which, `read` reads it."""

    def reader(place: Path) -> Reader:
        from experiment_manager.store.layout import Folder

        folder = Folder(str(place), "e")
        path = Path(name(folder))
        path.parent.mkdir(parents=True)

        def written_and_read(data: bytes) -> object:
            path.write_bytes(data)
            return read(folder)

        return written_and_read

    return reader


def _result(folder: Any) -> object:
    from experiment_manager.store.results import read_result

    return read_result(folder, 0, 1)


def _metrics(folder: Any) -> object:
    from experiment_manager.store.metrics import last_logged, last_values, read_metrics

    found = list(read_metrics(folder, 0, 1, lambda _: None))
    last = last_values(folder, 0, 1, lambda _: None)
    assert last.keys() == {name for one in found for name in one.values}
    return last_logged(folder, 0, 1)


def _manifest(folder: Any) -> object:
    from experiment_manager.errors import ExperimentManagerError
    from experiment_manager.store.manifest import Manifest

    with Manifest(folder) as manifest:
        asked: list[Callable[[], object]] = [
            lambda: (manifest.variables, manifest.generation, manifest.quick_check(), len(manifest), manifest.ids()),
            lambda: (list(manifest.jobs()), list(manifest.index()), manifest.next_id, manifest.job(1)),
            lambda: (manifest.configuration(1), manifest.configuration(2), manifest.kept(1), manifest.recipe(1)),
            lambda: (manifest.search, manifest.n_unproposed(), list(islice(manifest.proposals(), 9))),
        ]
        for one in asked:
            with suppress(ExperimentManagerError):
                one()
    return None


def _selection(folder: Any) -> object:
    from experiment_manager.store.pass_filter import read_selection

    return read_selection(folder)


def _small_manifests() -> list[bytes]:
    """One of a few jobs, and the same with a search and a recipe."""
    from experiment_manager import Experiment
    from experiment_manager.model.records import Entry, Recipe, Source
    from experiment_manager.model.search import CATEGORICAL, INT, MINIMIZE, Choice, Dimension, Proposal, Search
    from experiment_manager.store.layout import planning
    from experiment_manager.store.manifest_editor import editing

    entry = Entry("/bin/python", (), ("train.py",), (), "/a")
    recipe = Recipe(entry, "config", (Source("main", "conf/a", True),), (), "train", "train.py:main", "warn", {})
    space = (Dimension("n", INT, low=1, high=9), Dimension("a", CATEGORICAL, choices=(Choice("a=1", 1),)))
    search = Search(((3, 9),), space, (), (), (MINIMIZE,), (), {"name": "tpe"}, 0, 0.5, 1, "config")
    with tempfile.TemporaryDirectory() as place:
        experiment = Experiment(["seed"], "e", place)
        for seed in range(3):
            experiment.add_job({"seed": seed}, {"lr": 0.1, "layers": [64, 64 + seed]})
        experiment.save()
        folder = experiment.folder
        found = [Path(folder.manifest).read_bytes()]
        with planning(folder), editing(folder) as editor:
            editor.add_recipe(recipe)
            editor.keep({1: {"lr": 0.1}})
            editor.set_search(search)
            editor.add_trial(Proposal.made(search, 3, "", {"n": 2, "a": 1}, {}), None)
        return [_in_small_pages(data, place) for data in (*found, Path(folder.manifest).read_bytes())]


def _in_small_pages(data: bytes, place: str) -> bytes:
    """The same database in a third of the bytes: what is longer than an input would be cut, and SQLite reads none."""
    path = Path(place, "small.sqlite")
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA page_size = 512; VACUUM")
    return path.read_bytes()


def targets() -> dict[str, Target]:
    """Each reader by its name."""
    printed = [path.read_bytes()[:MOST_BYTES] for path in sorted(LINES.glob("*.txt"))]
    queue = b"57|0-2,6,8-9%4|57|PENDING|JobHeldUser|N/A|1:00:00||root|em|x y|/home/a/s.sh\n"
    runs = b"72_[0-1%1]|72|CANCELLED by 0|0:0|None|1795374939|None assigned|em-preempt\n64.0|64.0|OUT_OF_MEMORY|0:125\n"
    logged = b'{"step": 1, "time": 1.7e9, "values": {"loss": 0.1, "$": ["float", "nan"]}}\n' * 2
    record = b'{"format": 1, "state": "FAILED", "job": 1, "task": {"id": "1"}, "time": 1.0, "jobs": {"1": "0-3"}}'
    result = b'{"format": 1, "result": {"$": ["tuple", [1, 2]]}, "refused": {"model": "too large"}, "told": false}'
    written = [
        b"seed < 3 and algorithm == 'TD3'",
        b"{seed: [1, 2]}",
        b"state:FAILED,oom",
        b"sample:2",
        b"seed in (1, 2)",
    ]
    return {
        "filter": Target(_filter, [*written, b"not (seed ** 2 > 1) or algorithm.startswith('T')", b"tag:a", b"0-3,7"]),
        "ids": Target(_ids, [b"0-3,7", b"1, 2-9"]),
        "squeue": Target(_slurm("squeue"), [queue, *printed]),
        "sacct": Target(_slurm("sacct"), [runs, *printed]),
        "scontrol": Target(_slurm("scontrol"), [b"ClusterName = a\nMaxArraySize = 1001\n", *printed]),
        "job": Target(
            _job, [b"JobId=7 ArrayJobId=5 ArrayTaskId=2 JobState=RUNNING Restarts=1 TimeLimit=1:00\n", *printed]
        ),
        "sbatch": Target(_sbatch, [b"12\n", b"12;cluster\n", b"sbatch: error: Batch job submission failed: x\n"]),
        "log": Target(_slurm("log"), printed),
        "states": Target(_names, [b"7.1\n7.1.COMPLETED\n8.1\n8.1.RUNNING\nnotes.txt"]),
        "words": Target(_words, [b"train.py\0-m\0+wandb.api_key=abc\0--password\0x\0a://b:c@d"]),
        "settings": Target(_settings, [b"mem_gb=64\0exclude=[n1,n2]\0requeue=true\0a={b: 1}"]),
        "configuration": Target(
            _configuration, [b'{"a": "${b}", "b": [1, {"c": "${oc.env:X,1}"}], "$": ["float", "nan"]}']
        ),
        "record": Target(_records, [record]),
        "result": Target(_of_file(lambda e: e.of_attempt(0, 1, "result"), _result), [result]),
        "metrics": Target(_of_file(lambda e: e.of_attempt(0, 1, "metrics"), _metrics), [logged]),
        "manifest": Target(_of_file(lambda e: e.manifest, _manifest), _small_manifests()),
        "pass filter": Target(
            _of_file(lambda e: e.pass_filter, _selection), [b'{"format": 1, "jobs": [[0, 3]], "how": "seed < 3"}']
        ),
    }


def _fuzz(name: str, seconds: int, corpus: Path, artifacts: Path) -> None:
    """This process tries one reader, until the time is over or something breaks."""
    import atheris

    with atheris.instrument_imports(include=["experiment_manager", "simpleeval"]):
        target = targets()[name]
        read = target.reader(Path(os.environ["TMPDIR"]))
        from experiment_manager.errors import ExperimentManagerError

        def try_it(data: bytes) -> None:
            with suppress(ExperimentManagerError):
                read(data)

        for seed in target.seeds:  # imports what it needs
            try_it(seed)

    limits = (f"-max_total_time={seconds}", f"-timeout={MOST_S}", f"-rss_limit_mb={MOST_MB}", f"-max_len={MOST_BYTES}")
    atheris.Setup(["fuzz", *limits, f"-artifact_prefix={artifacts}/", str(corpus)], try_it)
    atheris.Fuzz()  # which never returns


def _folders(name: str) -> tuple[Path, Path]:
    home = ROOT / "build/fuzz" / name.replace(" ", "-")
    return home / "tried", home / "broken"


def main() -> int:
    """Every reader for so long; 1 where one has broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="READER", help="only these")
    parser.add_argument("--seconds", type=int, default=60, help="for each of them")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_this_process:
        _fuzz(options.targets[0], options.seconds, *_folders(options.targets[0]))
        return 0
    known = targets()
    if unknown := set(options.targets) - known.keys():
        parser.error(f"no reader is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name, target in known.items():
        assert max(map(len, target.seeds)) <= MOST_BYTES, f"a seed of {name} would be cut"
    n_broken = 0
    for name in options.targets or known:
        tried, broken = _folders(name)
        for folder in (tried, broken):
            folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(known[name].seeds):
            (tried / f"seed{number}").write_bytes(seed)
        command = [sys.executable, "-m", "tests.fuzz", "--in-this-process", "--seconds", str(options.seconds), name]
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
            env = {**os.environ, "TMPDIR": place}
            done = subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True, errors="replace", check=False
            )
        n_broken += _tell(name, done)
    return int(n_broken > 0)


def _tell(name: str, done: "subprocess.CompletedProcess[Any]") -> bool:
    tried = re.findall(r"^#(\d+)", done.stderr, re.MULTILINE)
    seen = re.findall(r"cov: (\d+)", done.stderr)
    line = f"{name:12} {int(tried[-1]) if tried else 0:>10,} inputs, {seen[-1] if seen else 0} branches"
    print(f"{line}: {'nothing broken' if done.returncode == 0 else 'BROKEN'}", flush=True)
    if done.returncode:
        print(done.stderr[-3000:], flush=True)
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
