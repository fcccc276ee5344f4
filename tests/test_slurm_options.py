"""The options of SLURM jobs: checked when they are made, whole when they are written and read again."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import OptionsError
from experiment_manager.scheduler.scripts import overridden
from experiment_manager.scheduler.slurm.configuration import SLURM
from experiment_manager.scheduler.slurm.options import (
    _ONE_OF,
    LONGEST_MIN,
    SlurmOptions,
    as_mapping,
    make,
    valid_options,
)
from experiment_manager.scheduler.slurm.scheduler import Slurm
from tests.conftest import clean_env, examples

TEXT_OPTIONS: Final = (
    "name", "partition", "qos", "comment", "constraint", "exclude", "gres", "account", "submitit_folder",
    "resources_from", "mail",
)  # fmt: skip
FROM_ONE: Final = ("nodes", "tasks_per_node", "array_parallelism", "pack", "cpus_per_task")
FROM_ZERO: Final = ("gpus_per_node", "gpus_per_task", "signal_delay_s", "max_num_timeout", "max_requeues")

README: Final = {
    "n_gpus": 1,
    "n_cpus": 1,
    "memory": "1000",
    "time": "10:00:00",
    "post_script": ["module load python/3.8", "module load conda"],
    "pre_script": ["conda deactivate idrl", "module unload conda", "module unload python/3.8"],
}

lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0\x85\u2028\u2029"), max_size=12)
texts = lines.filter(lambda text: bool(text.strip()))
numbers = st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)
option_names = st.from_regex(r"[a-z]{3,6}-[a-z0-9]{1,5}", fullmatch=True).map(lambda name: f"zz{name}")

options = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(TEXT_OPTIONS, texts),
        **dict.fromkeys(FROM_ONE, st.integers(1, 2**31 - 1)),
        **dict.fromkeys(FROM_ZERO, st.integers(0, 60_000)),
        **dict.fromkeys(("setup", "pre_script", "post_script", "wrap"), st.lists(lines, max_size=3)),
        **dict.fromkeys(("stderr_to_stdout", "wait"), st.booleans()),
        "timeout_min": st.integers(0, LONGEST_MIN),
        "mem_gb": st.floats(0, 2**20) | st.integers(0, 2**20).map(lambda megabytes: megabytes / 1024),
        "additional_parameters": st.dictionaries(option_names, texts | numbers | st.just(True), max_size=3),
    },
)
runners = st.fixed_dictionaries({}, optional={"python_runner": texts}) | st.fixed_dictionaries(
    {}, optional={"job_runner": st.lists(lines, min_size=1, max_size=3)}
)


def refusal(values: Mapping[str, Any]) -> str:
    """The sentence with which options are refused."""
    with pytest.raises(OptionsError) as refused:
        make(values, where="hydra.launcher")
    return str(refused.value)


def test_every_option_of_the_peer_is_one_of_ours() -> None:
    """Whoever comes from hydra-submitit-launcher keeps every name."""
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    assert set() == {one.name for one in fields(SlurmQueueConf)} - {"_target_"} - set(valid_options())


def test_nothing_is_set_by_default() -> None:
    """An option that was not given is not set, and one with nothing in it is not given; every option has a doc."""
    assert {} == as_mapping(SlurmOptions()) == as_mapping(make({"nodes": None, "setup": [], "wrap": ()}, where="SLURM"))
    assert SlurmOptions() == make({}, where="SLURM")
    assert all(one.metadata["doc"] for one in fields(SlurmOptions))
    assert tuple(one.name for one in fields(SlurmOptions)) == valid_options()


@examples(200)
@given(options)
def test_options_survive_json(values: dict[str, Any]) -> None:
    """What `as_mapping` gives survives JSON and makes the same record again, which can be the key of a dict."""
    found = make(values, where="SLURM")
    again = make(json.loads(json.dumps(as_mapping(found))), where="SLURM")
    assert found == again
    assert hash(found) == hash(again)
    assert found == overridden(Slurm(), found, {}, where="SLURM")


def test_what_people_write_is_taken() -> None:
    """Counts may be text, a limit any form of `--time`, one text a line or, for wrap, words; a number may be a name."""
    found = make(
        {
            "nodes": "4",
            "timeout_min": "1-12",
            "mem_gb": "0.5",
            "mem_per_cpu": None,
            "account": 1234,
            "pre_script": "module load cuda",
            "wrap": "singularity exec 'my image.sif'",
            "additional_parameters": {"mail_type": "END", "--nice": 100, "exclusive": True, "begin": None},
        },
        where="SLURM",
    )
    assert {
        "nodes": 4,
        "timeout_min": 2160,
        "mem_gb": 0.5,
        "account": "1234",
        "pre_script": ["module load cuda"],
        "wrap": ["singularity", "exec", "my image.sif"],
        "additional_parameters": {"mail-type": "END", "nice": 100, "exclusive": True},
    } == {**as_mapping(found)}
    assert "2000M" == make({"mem_per_cpu": 2000}, where="SLURM").mem_per_cpu
    assert "4G" == make({"mem_per_gpu": "4 GiB"}, where="SLURM").mem_per_gpu


def test_a_limit_of_jobs_within_that_of_their_task() -> None:
    """A job may have a limit of its own that is no longer than that of its task, which may have none."""
    for limits in ({"timeout_min": 90}, {"timeout_min": 0}, {}):
        assert 90.0 == make({"job_timeout_min": "90", **limits}, where="t").job_timeout_min


def test_omegaconf_containers_are_taken() -> None:
    """A node of a Hydra configuration can be given as it is."""
    from omegaconf import OmegaConf

    node = OmegaConf.create({"nodes": 2, "setup": ["a", "b"], "additional_parameters": {"nice": 5}, "qos": None})
    expected = {"nodes": 2, "setup": ["a", "b"], "additional_parameters": {"nice": 5}}
    assert expected == as_mapping(make(node, where="hydra.launcher"))


@pytest.mark.parametrize(
    ("name", "near"),
    [("partiton", "partition"), ("time", "timeout_min"), ("memory", "mem_gb"), ("n_gpus", "gpus_per_node")],
)
def test_unknown_option_is_answered_with_the_nearest(name: str, near: str) -> None:
    """An unknown option is refused with the one that was meant, and with all that there are."""
    expected = f"hydra.launcher: unknown SLURM option '{name}'; did you mean '{near}'? the options are " + ", ".join(
        valid_options()
    )
    assert expected == refusal({name: 1})


def test_unknown_option_without_a_likeness() -> None:
    """An option like none is refused with all that there are, even when it is not set or no text."""
    assert refusal({"zzzz": None}).startswith(
        "hydra.launcher: unknown SLURM option 'zzzz'; the options are timeout_min,"
    )
    assert refusal({1: 1}).startswith("hydra.launcher: unknown SLURM option 1; the options are")  # type: ignore[dict-item]


@pytest.mark.parametrize("value", [0, -1, 1.0, 1.5, True, "1.5", "", "x", "²", [], 2**31, math.nan])
def test_counts_are_whole_numbers(value: object) -> None:
    """A count that is no whole number from 1 up is refused by name and value."""
    for name in FROM_ONE:
        assert f"hydra.launcher: {name}: {value!r} is no whole number of at least 1" == refusal({name: value})


@pytest.mark.parametrize("name", FROM_ZERO)
def test_some_counts_may_be_nothing(name: str) -> None:
    """No GPU, no delay, no second try can be asked for; less than that cannot."""
    assert 0 == getattr(make({name: 0}, where="SLURM"), name)
    assert f"hydra.launcher: {name}: -1 is no whole number" in refusal({name: -1})


def test_longest_delay_of_the_signal() -> None:
    """`sbatch --signal` takes at most 65,535 seconds."""
    assert 65_535 == make({"signal_delay_s": 65_535}, where="SLURM").signal_delay_s
    assert "signal_delay_s: 65536 is no whole number from 0 to 65535" in refusal({"signal_delay_s": 65_536})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"timeout_min": "10h"}, "timeout_min: '10h' is no time limit; write minutes (90)"),
        ({"timeout_min": True}, "timeout_min: True is no time limit"),
        ({"job_timeout_min": 0}, "job_timeout_min: 0 is no time limit of a job; write minutes, such as 90 or 0.5"),
        ({"job_timeout_min": -0.5}, "job_timeout_min: -0.5 is no time limit of a job"),
        ({"job_timeout_min": math.nan}, "job_timeout_min: nan is no time limit of a job"),
        ({"job_timeout_min": math.inf}, "job_timeout_min: inf is no time limit of a job"),
        ({"job_timeout_min": "1:30"}, "job_timeout_min: '1:30' is no time limit of a job"),
        ({"job_timeout_min": True}, "job_timeout_min: True is no time limit of a job"),
        ({"job_timeout_min": 90.5, "timeout_min": 90}, "job_timeout_min=90.5 is longer than timeout_min=90, at which"),
        ({"workers": 2, "start_method": "fork"}, "start_method: 'fork' is none of spawn, forkserver"),
        (
            {"start_method": "forkserver"},
            "start_method=forkserver is for workers, which run one job after the other",
        ),
        ({"mem_gb": -1}, "mem_gb: -1 is no number of gigabytes; write 4 or 0.5, or 0 for all of a node"),
        ({"mem_gb": "4G"}, "mem_gb: '4G' is no number of gigabytes"),
        ({"mem_gb": True}, "mem_gb: True is no number of gigabytes"),
        ({"mem_gb": math.nan}, "mem_gb: nan is no number of gigabytes"),
        ({"mem_gb": math.inf}, "mem_gb: inf is no number of gigabytes"),
        ({"mem_gb": []}, "mem_gb: [] is no number of gigabytes"),
        ({"mem_per_cpu": "4X"}, "mem_per_cpu: '4X' is no amount of memory"),
        ({"wait": "yes"}, "wait: 'yes' is neither true nor false"),
        ({"stderr_to_stdout": 1}, "stderr_to_stdout: 1 is neither true nor false"),
        ({"name": 1.5}, "name: 1.5 is no text; put it in quotes"),
        ({"name": True}, "name: True is no text"),
        ({"partition": " "}, "partition: ' ' is empty; leave the option out"),
        ({"setup": {"a": 1}}, "setup: {'a': 1} is no text"),
        ({"setup": [["a"]]}, "setup: ['a'] is no text"),
        ({"setup": b"ab"}, "setup: b'ab' is no text"),
        ({"wrap": "a 'b"}, 'wrap: "a \'b" cannot be split into words (No closing quotation); write a list of words'),
        ({"mem_gb": 4, "mem_per_cpu": "1G"}, "SLURM takes only one of mem_gb and mem_per_cpu"),
        ({"cpus_per_task": 4, "cpus_per_gpu": 1}, "SLURM takes only one of cpus_per_task and cpus_per_gpu"),
        ({"gres": "gpu:a100:2", "gpus_per_node": 1}, "SLURM takes only one of gpus_per_node and gres"),
        ({"gres": "disk:1,gpu", "gpus_per_node": 1}, "SLURM takes only one of gpus_per_node and gres"),
        (
            {"gpus_per_node": 1, "additional_parameters": {"gres": "gres/gpu:1"}},
            "SLURM takes only one of gpus_per_node and gres in additional_parameters",
        ),
        (
            {"mem_gb": 4, "additional_parameters": {"mem-per-cpu": "1G"}},
            "SLURM takes only one of mem_gb and mem-per-cpu in additional_parameters",
        ),
        (
            {"mem_per_cpu": "1G", "additional_parameters": {"mem": "4G"}},
            "SLURM takes only one of mem in additional_parameters and mem_per_cpu",
        ),
        (
            {"cpus_per_task": 4, "additional_parameters": {"cpus_per_gpu": 4}},
            "SLURM takes only one of cpus_per_task and cpus-per-gpu in additional_parameters",
        ),
        (
            {"max_requeues": 0, "additional_parameters": {"requeue": True}},
            "SLURM takes only one of requeue in additional_parameters and max_requeues=0",
        ),
        (
            {"max_num_timeout": 3, "additional_parameters": {"no-requeue": True}},
            "SLURM takes only one of max_num_timeout=3 and no-requeue in additional_parameters",
        ),
    ],
)
def test_values_that_cannot_be_meant(values: dict[str, Any], sentence: str) -> None:
    """A value of a wrong kind, or that SLURM would refuse, is refused with the option's name and the value."""
    assert f"hydra.launcher: {sentence}" in refusal(values)


ONE_OF: dict[str, tuple[dict[str, Any], Any]] = {  # by sbatch's name: ours with a value, and one among the additional
    "mem": ({"mem_gb": 4}, "4G"),
    "mem-per-cpu": ({"mem_per_cpu": "1G"}, "1G"),
    "mem-per-gpu": ({"mem_per_gpu": "1G"}, "1G"),
    "cpus-per-task": ({"cpus_per_task": 4}, 4),
    "cpus-per-gpu": ({"cpus_per_gpu": 4}, 4),
    "gpus-per-node": ({"gpus_per_node": 1}, 1),
    "gres": ({"gres": "gpu:1"}, "gpu:1"),
    "requeue": ({"max_requeues": 1}, True),
    "no-requeue": ({"max_requeues": 0}, True),
}


@pytest.mark.parametrize(("one", "other"), [pair for group in _ONE_OF for pair in combinations(group, 2)])
def test_one_of_a_group(one: str, other: str) -> None:
    """Two options of a group are refused with the names of both, as our options and among the additional ones."""
    (ours, more), (others, more_of_other) = ONE_OF[one], ONE_OF[other]
    values: list[dict[str, Any]] = [
        {**ours, "additional_parameters": {other: more_of_other}},
        {**others, "additional_parameters": {one: more}},
        {"additional_parameters": {one: more, other: more_of_other}},
        *([{**ours, **others}] if ours.keys() != others.keys() else []),
    ]
    for both in values:
        (named,) = re.findall("SLURM takes only one of (.*); leave out, or set to null, one", refusal(both))
        assert 2 == len(named.split(" and "))
        for name in (*(both.keys() - {"additional_parameters"}), *both.get("additional_parameters", ())):
            assert name in named


@pytest.mark.parametrize(
    "values",
    [
        {"gres": "gpu:1", "gpus_per_node": 0},
        {"gres": "disk:1,gpumem:4", "gpus_per_node": 1},
        {"max_requeues": 2, "additional_parameters": {"requeue": True}},
        {"max_requeues": 0, "max_num_timeout": 3, "additional_parameters": {"no-requeue": True}},
        {"max_num_timeout": 0, "additional_parameters": {"no-requeue": True, "mem": "4G", "gres": "gpu:1"}},
    ],
)
def test_values_that_go_together(values: dict[str, Any]) -> None:
    """What says nothing else of one thing, or nothing, is taken."""
    assert make(values, where="test")


@pytest.mark.parametrize("letter", ["\n", "\r", "\0", "\ud800"])
def test_one_line_is_one_line(letter: str) -> None:
    """No text option, line or word may hold what would end a line of the script, or could not be written."""
    value = f"a{letter}b"
    for name in TEXT_OPTIONS:
        assert f"hydra.launcher: {name}: {value!r} holds a line break" in refusal({name: value})
    for name in ("setup", "pre_script", "post_script", "wrap"):
        assert f"hydra.launcher: {name}: {value!r} holds a line break" in refusal({name: value})
        assert f"hydra.launcher: {name}: {value!r} holds a line break" in refusal({name: ["x", value]})
    assert f"{value!r} holds a line break" in refusal({"additional_parameters": {"mail-user": value}})


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("array", "array_parallelism"),
        ("job-name", "name"),
        ("job_name", "name"),
        ("--job-name", "name"),
        ("output", "stderr_to_stdout or submitit_folder"),
        ("outp", "stderr_to_stdout or submitit_folder"),
        ("error", "stderr_to_stdout or submitit_folder"),
        ("wrap", "the option wrap"),
        ("parsable", "nothing: the id of the job is read anyway"),
        ("test_only", "the launcher that only writes the script"),
        ("open-mode", "nothing: logs are always appended to"),
        ("signal", "signal_delay_s"),
        ("wait", "the option wait"),
    ],
)
def test_what_we_write_ourselves_is_refused(key: str, instead: str) -> None:
    """An option of sbatch that the script writes by itself is refused, abbreviated too, with what to use instead."""
    expected = (
        f"hydra.launcher: additional_parameters: {key!r} is written by the experiment manager itself; use {instead}"
    )
    assert expected == refusal({"additional_parameters": {key: "x"}})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["nice"], "['nice'] is no mapping of sbatch's long options"),
        ({"N": 1}, "'N' is no long option of sbatch; write one like mail-type"),
        ({"": 1}, "'' is no long option"),
        ({"-N": 1}, "'-N' is no long option"),
        ({"nice; rm": 1}, "'nice; rm' is no long option"),
        ({"nice=5": 1}, "'nice=5' is no long option"),
        ({1: 1}, "1 is no long option"),
        ({"mail_type": "END", "mail-type": "END"}, "'mail-type' is there twice"),
        ({"exclusive": False}, "exclusive=False is neither text nor a number nor true; leave it out"),
        ({"nice": math.nan}, "nice=nan is neither text nor a number nor true"),
        ({"nice": [1]}, "nice=[1] is neither text nor a number nor true"),
    ],
)
def test_additional_parameters_are_checked(values: object, sentence: str) -> None:
    """Only long options of sbatch with text, a number or true can be passed on."""
    assert f"hydra.launcher: additional_parameters: {sentence}" in refusal({"additional_parameters": values})


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [("timeout_min", 5, "time"), ("mem_gb", 4, "mem"), ("tasks_per_node", 2, "ntasks-per-node"), ("qos", "low", "qos")],
)
def test_one_option_is_written_once(name: str, value: object, written: str) -> None:
    """An option that has a name here is not taken a second time among the additional parameters; alone it may be."""
    values = {name: value, "additional_parameters": {written: "1"}}
    assert f"hydra.launcher: {name} is in additional_parameters, too, as '{written}'; write it once" == refusal(values)
    assert {written: "1"} == make({"additional_parameters": {written: "1"}}, where="SLURM").additional_parameters


def test_overriding() -> None:
    """What overrides replaces, None makes unset, the rest stays, and the checks are the same."""
    base = make({"nodes": 2, "mem_gb": 4, "setup": ["a"], "wait": True}, where="SLURM")
    changes = {"nodes": 3, "mem_gb": None, "mem_per_cpu": "1G", "wait": None}
    assert {"nodes": 3, "mem_per_cpu": "1G", "setup": ["a"]} == Slurm().kept(
        overridden(Slurm(), base, changes, where="job 7")
    )
    assert 2 == base.nodes
    with pytest.raises(OptionsError, match="job 7: SLURM takes only one of mem_gb and mem_per_cpu"):
        overridden(Slurm(), base, {"mem_per_cpu": "1G"}, where="job 7")
    with pytest.raises(OptionsError, match="job 7: unknown SLURM option 'node'; did you mean 'nodes'"):
        overridden(Slurm(), base, {"node": 1}, where="job 7")


def test_callers_values_are_left_alone() -> None:
    """The record shares nothing with what it was made of."""
    values: dict[str, Any] = {"setup": ["a"], "additional_parameters": {"nice": 5}}
    found = make(values, where="SLURM")
    values["setup"].append("b")
    values["additional_parameters"]["nice"] = 6
    as_mapping(found)["additional_parameters"]["nice"] = 7
    assert {"setup": ["a"], "additional_parameters": {"nice": 5}} == as_mapping(found)


def test_importing_options_is_cheap() -> None:
    """Every Hydra program on the machine imports this module, so YAML and the like wait until they are needed."""
    late = {"yaml", "difflib", "shlex", "omegaconf"}
    code = f"import sys, experiment_manager.scheduler.slurm.options; print({late} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, check=True)
    assert "set()" == done.stdout.strip()


def test_the_call_of_the_readme() -> None:
    """The call that the library promises is understood, 1000 MB are 1000 MB, and its repr reads like it."""
    slurm = SLURM(**README, python_runner="runner.py")
    assert (1, 1, 1000 / 1024, 600) == (
        slurm.options.gpus_per_node,
        slurm.options.cpus_per_task,
        slurm.options.mem_gb,
        slurm.options.timeout_min,
    )
    assert tuple(README["pre_script"]) == slurm.options.pre_script  # type: ignore[arg-type]
    assert tuple(README["post_script"]) == slurm.options.post_script  # type: ignore[arg-type]
    assert ("runner.py", None) == (slurm.python_runner, slurm.job_runner)
    assert {**README, "memory": "1000M", "python_runner": "runner.py"} == slurm.to_mapping()
    assert slurm == eval(repr(slurm), {"SLURM": SLURM})
    assert repr(slurm).startswith("SLURM(n_gpus=1, n_cpus=1, memory='1000M', time='10:00:00', pre_script=['conda ")


def test_long_and_short_names() -> None:
    """Every option can be given by its own name, and is the same one under its short name."""
    short = SLURM(n_gpus=0, n_cpus=2, n_nodes=3, memory="4G", time=90, partition="main")
    long = SLURM(gpus_per_node=0, cpus_per_task=2, nodes=3, mem_gb=4, timeout_min=90, partition="main")
    assert short == long
    assert 0 == short.options.gpus_per_node
    assert short != SLURM()
    assert SLURM() != {}


def test_unlimited_time_and_all_memory() -> None:
    """No limit and all memory of the node are something else than not set."""
    slurm = SLURM(time="UNLIMITED", memory=0)
    assert {"memory": "0", "time": "UNLIMITED"} == slurm.to_mapping()
    assert slurm == SLURM(**slurm.to_mapping())


def test_a_path_as_runner(tmp_path: Path) -> None:
    """The runner can be given as a path."""
    assert str(tmp_path) == SLURM(python_runner=tmp_path).python_runner


@examples(150)
@given(values=options, runner=runners)
def test_files_give_back_what_was_saved(
    values: dict[str, Any], runner: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What is saved, as JSON or YAML, is loaded equal, as are its mapping and its repr."""
    slurm = SLURM(**values, **runner)
    folder = tmp_path_factory.getbasetemp()
    for name in ("a.json", "a.yaml", "a.YML", "a.conf", "a"):
        slurm.save(folder / name)
        assert slurm == SLURM.load(folder / name)
    assert slurm == SLURM(**slurm.to_mapping())
    assert slurm.options == SLURM(**slurm.to_mapping()).options
    assert slurm == eval(repr(slurm), {"SLURM": SLURM})


def test_saved_beside_a_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a folder is a file in the working directory, and nothing else is left there."""
    monkeypatch.chdir(tmp_path)
    SLURM(n_gpus=1, time="10:00:00").save("slurm_config.json")
    assert {"n_gpus": 1, "time": "10:00:00"} == json.loads(Path("slurm_config.json").read_text())
    assert ["slurm_config.json"] == os.listdir(tmp_path)


def test_yaml_that_we_write_is_read_by_others(tmp_path: Path) -> None:
    """A plain YAML reader does not take our times for numbers."""
    SLURM(time="10:00:00", account="0123", name="2024-01-01").save(tmp_path / "a.yaml")
    expected = {"time": "10:00:00", "account": "0123", "name": "2024-01-01"}
    assert expected == yaml.safe_load((tmp_path / "a.yaml").read_text())


@pytest.mark.parametrize("runner", ["python runner.py", ["python", "runner.py"]])
def test_files_of_the_original_library(tmp_path: Path, runner: object) -> None:
    """A configuration that the original library wrote has job_runner, a whole command."""
    path = tmp_path / "slurm_config.json"
    path.write_text(json.dumps({**README, "job_runner": runner}))
    slurm = SLURM.load(str(path))
    assert ("python", "runner.py") == slurm.job_runner
    assert slurm.python_runner is None
    assert SLURM(**README).options == slurm.options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("time: 10:00:00", {"time": "10:00:00"}),
        ("time: 1:30", {"time": "00:02:00"}),
        ("time: 1-00:00:00", {"time": "1-00:00:00"}),
        ("time: 1-12", {"time": "1-12:00:00"}),
        ("time: 90", {"time": "01:30:00"}),
        ("time: 1.5", {"time": "00:02:00"}),
        ("timeout_min: 010", {"time": "00:10:00"}),
        ("memory: 4G", {"memory": "4G"}),
        ("memory: 1000", {"memory": "1000M"}),
        ("mem_gb: 0.1", {"mem_gb": 0.1}),
        ("account: 0123", {"account": "0123"}),
        ("name: 2024-01-01", {"name": "2024-01-01"}),
        ("name: 1_000", {"name": "1_000"}),
        ("additional_parameters: {begin: 16:00:00}", {"additional_parameters": {"begin": "16:00:00"}}),
        ("wait: true\nqos: null\npartition: ~", {"wait": True}),
        ("setup:\n- module load cuda\n- export A=1", {"setup": ["module load cuda", "export A=1"]}),
    ],
)
def test_yaml_as_people_mean_it(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    """`time: 10:00:00` is ten hours and not YAML 1.1's 36,000 minutes; dates and leading zeros are text."""
    for name in ("a.yaml", "a.yml", "a.conf"):
        (tmp_path / name).write_text(text)
        assert expected == SLURM.load(tmp_path / name).to_mapping()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n_gpus": 1, "gpus_per_node": 1}, "n_gpus and gpus_per_node are two names of one option"),
        ({"timeout_min": 1, "time": 1}, "timeout_min and time are two names of one option"),
        ({"python_runner": "a.py", "job_runner": "b"}, "python_runner and job_runner both say what runs a job"),
        ({"memory": "4X"}, "memory: '4X' is no amount of memory"),
        ({"memory": True}, "memory: True is no amount of memory"),
        ({"time": "10h"}, "time: '10h' is no time limit"),
        ({"n_gpus": -1}, "n_gpus: -1 is no whole number of at least 0"),
        ({"python_runner": ""}, "python_runner: '' is empty"),
        ({"python_runner": "a\nb"}, "python_runner: 'a\\nb' holds a line break"),
        ({"job_runner": " "}, "job_runner: ' ' is empty"),
        ({"job_runner": "a 'b"}, 'job_runner: "a \'b" cannot be split into words'),
        ({"job_runner": 1.5}, "job_runner: 1.5 is no text"),
    ],
)
def test_calls_that_cannot_be_meant(tmp_path: Path, values: dict[str, Any], sentence: str) -> None:
    """An error says what the user called the option, and where: in the call, or in which file."""
    with pytest.raises(OptionsError) as refused:
        SLURM(**values)
    assert str(refused.value).startswith(f"SLURM: {sentence}")
    path = tmp_path / "slurm.json"
    path.write_text(json.dumps(values))
    with pytest.raises(OptionsError, match=re.escape(f"{path}: {sentence}")):
        SLURM.load(path)


def test_none_is_not_set_under_either_name() -> None:
    """None under one name does not stand against a value under the other."""
    for values in ({"n_gpus": None, "gpus_per_node": 2}, {"gpus_per_node": 2, "n_gpus": None}):
        assert SLURM(n_gpus=2) == SLURM(**values, job_runner=None)


def test_unknown_keyword() -> None:
    """An unknown keyword is refused with the nearest and with all, short and long."""
    with pytest.raises(OptionsError) as refused:
        SLURM(n_gpu=1)
    assert (
        "SLURM: unknown SLURM option 'n_gpu'; did you mean 'n_gpus'? the options are "
        "n_gpus, n_cpus, n_nodes, memory, time, python_runner, job_runner, " + ", ".join(valid_options())
    ) == str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "{", "is no JSON (Expecting property name"),
        ("a.json", "time: 90", "is no JSON (Expecting value"),
        ("a.json", "", "is no JSON (Expecting value"),
        ("a.yaml", "a: [", "is no YAML (while parsing a flow node"),
        ("a.yaml", "a: !!python/object:x.y {}", "is no YAML (could not determine a constructor"),
        ("a.conf", "a: [", "is no JSON or YAML (while parsing a flow node"),
        ("a.json", "[1]", "holds no mapping of options; write one like {n_gpus: 1, memory: 4G}"),
        ("a.yaml", "", "holds no mapping of options"),
        ("a.yaml", "1: 1", "unknown SLURM option 1"),
        ("a.json", '{"mem_gb": NaN}', "mem_gb: nan is no number of gigabytes"),
        ("a.yaml", "setup: |\n  a\n  b\n", "setup: 'a\\nb\\n' holds a line break"),
    ],
)
def test_files_that_cannot_be_meant(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    """A file that cannot be read as options is refused, and the refusal names it."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(OptionsError) as refused:
        SLURM.load(path)
    assert str(path) in str(refused.value)
    assert sentence in str(refused.value)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    """A file that is missing, a folder, or no text is refused by its path; so is a place that cannot be written."""
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe9"}')
    for name, reason in (
        ("no.json", "cannot be read (No such file or directory)"),
        ("", "cannot be read (Is a directory)"),
        ("latin.json", "is no JSON ('utf-8' codec can't decode"),
    ):
        with pytest.raises(OptionsError, match=re.escape(f"{tmp_path / name} {reason}")):
            SLURM.load(tmp_path / name)
    for name in ("no/a.json", "no/a.yaml"):
        with pytest.raises(OptionsError, match=re.escape(f"{tmp_path / name} cannot be written (No such file")):
            SLURM().save(tmp_path / name)
