"""The pass filter in all its forms: the same jobs whether it was written in Python, in YAML or on a command line."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import FilterError
from experiment_manager.model import codec, facts, filters
from experiment_manager.model.facts import Facts
from experiment_manager.model.ids import parse_ids
from experiment_manager.model.records import Job, JobId, State
from tests.conftest import examples

GRID = [
    {"algorithm": algorithm, "seed": seed, "lr": lr}
    for algorithm in ("TD3", "DDPG")
    for seed in (1, 2, 3)
    for lr in (0.001, 0.1)
]
STATES = {0: State.FAILED, 3: State.TIMEOUT, 5: State.COMPLETED, 11: State.FAILED}


def jobs_of(*variables: Mapping[str, Any]) -> list[Job]:
    return [Job(JobId(number), str(number), each, (), None, None) for number, each in enumerate(variables)]


def facts_of(jobs: list[Job], configurations: Mapping[int, Any] | None = None) -> Facts:
    def configuration(job: Job) -> Any:
        if configurations is None:
            raise AssertionError("a filter on variables composed a configuration")
        return configurations[job.id]

    return Facts(
        names=frozenset(name for job in jobs for name in job.variables),
        ids=frozenset(job.id for job in jobs),
        configuration=configuration,
        state=lambda job_id: STATES.get(job_id, State.PENDING),
    )


def passing(written: Any, *variables: Mapping[str, Any], configurations: Mapping[int, Any] | None = None) -> list[int]:
    """The ids that pass a filter."""
    jobs = jobs_of(*(variables or GRID))
    selection = filters.apply(filters.parse(written), jobs, facts_of(jobs, configurations))
    return [job.id for job in selection.jobs]


def refusal(written: Any, *variables: Mapping[str, Any], configurations: Mapping[int, Any] | None = None) -> str:
    """The sentence with which a filter is refused, be it when it is read or when it is applied."""
    with pytest.raises(FilterError) as refused:
        passing(written, *variables, configurations=configurations)
    return str(refused.value)


def is_td3(variables: Mapping[str, Any]) -> bool:
    return bool(variables["algorithm"] == "TD3")


def is_below(variables: Mapping[str, Any], limit: int = 2) -> bool:
    return bool(variables["seed"] < limit)


def fails(variables: Mapping[str, Any]) -> bool:
    return bool(variables["nothing"])


def spoils(variables: dict[str, Any]) -> bool:
    variables.clear()
    return True


NO_FUNCTION = 3
TD3 = [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("python", "in_yaml", "text", "ids"),
    [
        ({"algorithm": "TD3"}, "algorithm: TD3", "{algorithm: TD3}", TD3),
        (
            {"algorithm": "TD3", "seed": [1, 2]},
            "{algorithm: TD3, seed: [1, 2]}",
            "{algorithm: TD3, seed: [1, 2]}",
            [0, 1, 2, 3],
        ),
        ({"lr": 0.001}, "lr: 0.001", "{lr: 0.001}", [0, 2, 4, 6, 8, 10]),
        ({"seed": 1.0}, "seed: 1.0", "{seed: 1.0}", [0, 1, 6, 7]),
        ({"seed": [7]}, "seed: [7]", "{seed: [7]}", []),
        ({}, "{}", "{}", list(range(12))),
        (
            "algorithm == 'TD3' and seed < 3",
            "algorithm == 'TD3' and seed < 3",
            "algorithm == 'TD3' and seed < 3",
            [0, 1, 2, 3],
        ),
        (
            "seed in (1, 3) and not lr > .01",
            "'seed in (1, 3) and not lr > .01'",
            "seed in [1, 3] and lr < .01",
            [0, 4, 6, 10],
        ),
        ([0, 1, 2, 3, 7], "[0, 1, 2, 3, 7]", "0-3,7", [0, 1, 2, 3, 7]),
        ([7, 3, 3], "[7, 3, 3]", "[7, 3, 3]", [3, 7]),
        (range(3), "0-2", " 0 - 2 ", [0, 1, 2]),
        ({4, 2}, "'2,4'", "4, 2", [2, 4]),
        (parse_ids("0-3"), "0-3", "0-3", [0, 1, 2, 3]),
        (7, "7", "7", [7]),
        ("state:FAILED,TIMEOUT", "state:FAILED,TIMEOUT", "state: failed , timeout", [0, 3, 11]),
        (["state:COMPLETED"], "- state:COMPLETED", "[state:COMPLETED]", [5]),
        ("sample:12", "sample:12", "sample:99", list(range(12))),
        ("sample:0", "sample:0", "[sample:0]", []),
        (is_td3, f"{__name__}.is_td3", f"{__name__}.is_td3", TD3),
        (
            {"_target_": f"{__name__}.is_below", "limit": 3},
            f"{{_target_: {__name__}.is_below, limit: 3}}",
            f"{{_target_: {__name__}.is_below, _partial_: true, limit: 3}}",
            [0, 1, 2, 3, 6, 7, 8, 9],
        ),
        (
            [is_td3, "seed > 1", {"lr": 0.1}, "0-4"],
            f"[{__name__}.is_td3, seed > 1, {{lr: 0.1}}, 0-4]",
            f"[{__name__}.is_td3, seed > 1, {{lr: 0.1}}, 0-4]",
            [3],
        ),
        ([["0-3"], [["2-5"]]], "[[0-3], [[2-5]]]", "[[0-3], [[2-5]]]", [2, 3]),
        (None, "null", "[sample:12]", list(range(12))),
    ],
)
def test_three_ways_to_write_a_filter_agree(python: Any, in_yaml: str, text: str, ids: list[int]) -> None:
    """Every form gives the same ids in Python, as parsed YAML, and as text of a command line."""
    assert ids == passing(python)
    assert ids == passing(yaml.safe_load(in_yaml))
    assert ids == passing(text)


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1e-03", "+1e-3", "1.e-3"])
def test_numbers_in_text_are_read_as_hydra_reads_them(number: str) -> None:
    """A learning rate in a mapping on the command line is the number that the same text is in Hydra's YAML."""
    omegaconf = pytest.importorskip("omegaconf")
    in_hydra = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create(f"{{lr: {number}}}"))
    expected = [0, 2, 4, 6, 8, 10]
    assert expected == passing(in_hydra)
    assert expected == passing(f"{{lr: {number}}}")


WORDS = (
    *(
        "no",
        "on",
        "yes",
        "off",
        "us",
        "010",
        "00",
        "0",
        "-0",
        "1:30",
        "0x10",
        "0b11",
        "0o10",
        "1_000",
        "1__0",
        "+5",
        "5",
    ),
    *("1e-3", "1.", "-.5", "1.5e3", "01.5", "1e01", ".5", "1_0.0_1", "inf", "-Inf", "null", "Null", "true", "TRUE"),
    *("tRue", "false", "2020-01-01", "'no'", "'1'", "a:b", "v1.0"),
)


@pytest.mark.parametrize("word", WORDS)
def test_words_in_text_are_those_of_the_sweep(word: str) -> None:
    """A word in a mapping names the value that the same word has in an override, and no other: `no` is text, `010` no
    number; what is told apart there is told apart here."""
    parser = pytest.importorskip("hydra.core.override_parser.overrides_parser").OverridesParser.create()
    values = [codec.encode(parser.parse_override(f"x={each}").value()) for each in WORDS]
    swept = codec.decode(values)
    same = [number for number, value in enumerate(swept) if filters._equal(value, swept[WORDS.index(word)])]
    assert same == passing(f"{{x: {word}}}", *({"x": value} for value in swept))
    assert same == passing(f"{{x: [{word}]}}", *({"x": value} for value in swept))


LETTERS = "ab1 :,#*&!@%`'\"\\-?[]{}~.<=|>\n\x85\u2028"
TEXTS = st.text(max_size=8) | st.text(LETTERS, max_size=6) | st.sampled_from(WORDS)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
)


@examples(300)
@given(st.dictionaries(TEXTS.filter(lambda name: name != "_target_"), VALUES, max_size=3))
def test_a_rule_as_it_is_told_is_the_same_rule(wanted: dict[str, Any]) -> None:
    """Whoever copies a rule from a message or from pass_filter.json asks for the same jobs: no value is another one."""
    (rule,) = filters.parse(wanted)
    assert "\n" not in rule.text
    (copied,) = filters.parse(rule.text)
    assert isinstance(rule, filters.Mapped)
    assert isinstance(copied, filters.Mapped)
    assert codec.encode(rule.wanted) == codec.encode(copied.wanted), rule.text
    assert rule.text == copied.text


def test_numbers_of_numpy_are_numbers() -> None:
    """They choose the same jobs as those of Python, and are told as these."""
    numpy = pytest.importorskip("numpy")
    for value, text in (
        (numpy.int64(3), "3"),
        (numpy.float32(0.5), "0.5"),
        (numpy.bool_(True), "true"),
        (numpy.array(7), "7"),
        ([numpy.int64(1), (numpy.float64(2), numpy.int8(3))], "[1, [2.0, 3]]"),
        ({"a": numpy.int64(3)}, "{a: 3}"),
    ):
        (rule,) = filters.parse({"x": value})
        assert isinstance(rule, filters.Mapped)
        assert f"{{x: {text}}}" == rule.text
    assert [0] == passing({"x": numpy.bool_(True)}, {"x": True}, {"x": 1})
    assert [1] == passing({"x": numpy.int64(1)}, {"x": True}, {"x": 1})


@examples(300)
@given(VALUES, VALUES)
def test_values_that_are_equal_are_found(one: Any, other: Any) -> None:
    """However many values a rule names, a job passes where one of them is equal to its own."""
    for found in (one, other, [one], float("nan"), True, 1, 1.0):
        is_there = any(filters._equal(found, value) for value in (one, other, [one, other]))
        assert ([0] if is_there else []) == passing({"x": [one, other]}, {"x": found})


class Level(IntEnum):
    HIGH = 1


def test_numbers_that_are_none_and_members_that_are_numbers_are_found() -> None:
    """NaN is NaN to whoever chooses jobs, and a member of an IntEnum is the number that it is."""
    jobs = jobs_of(
        {"kind": math.nan}, {"kind": 1}, {"kind": [math.nan, 2]}, {"kind": Level.HIGH}, {"kind": {"a": math.nan}}
    )
    for written, ids in (
        ("{kind: nan}", [0]),
        ({"kind": float("nan")}, [0]),
        ("{kind: [nan, 1]}", [0, 1, 3]),
        ("{kind: [[nan, 2]]}", [2]),
        ({"kind": Level.HIGH}, [1, 3]),
        ("{kind: {a: nan}}", [4]),
    ):
        assert (ids, []) == asked(written, jobs), written


def test_many_values_are_searched_as_fast_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of jobs are looked up, and not compared with one after the other; what is missed is told."""
    equal, compared = filters._equal, Counter[str]()

    def counted(one: Any, other: Any) -> bool:
        compared["values"] += 1
        return equal(one, other)

    monkeypatch.setattr(filters, "_equal", counted)
    jobs = jobs_of(*({"seed": seed} for seed in range(100)))
    ids, said = asked({"seed": list(range(1, 102))}, jobs)
    assert (list(range(1, 100)), 1) == (ids, len(said))
    assert said[0].endswith("no job that passes it has seed=100, 101")
    assert compared["values"] <= 2 * len(jobs)


def test_names_in_text_are_words_too() -> None:
    """A variable may be called `on`; one that is there twice is refused, for only one of the two could count."""
    assert [1] == passing("{on: no}", {"on": "yes"}, {"on": "no"})
    assert "the key seed is there twice" in refusal("{seed: 1, seed: 2}")


def test_values_that_no_job_has_are_told() -> None:
    """Of several values those that nothing that passes has are named; not where a list is the value itself."""
    jobs = jobs_of({"lr": 1, "us": "no"}, {"lr": 2, "us": "no"})
    assert ([0, 1], []) == asked("{lr: [1, 2]}", jobs)
    ids, said = asked("{lr: [1, 3, '2'], us: no}", jobs)
    assert ([0], ["the filter {lr: [1, 3, '2'], us: no}: no job that passes it has lr=3, '2'"]) == (ids, said)
    assert ([0], []) == asked("{lr: [[1, 2]]}", jobs_of({"lr": [1, 2]}))
    assert ([0], []) == asked("{lr: [1, 2]}", jobs_of({"lr": [1, 2]}))
    _, said = asked({"lr": list(range(1, 10))}, jobs)
    assert [True] == [line.endswith("lr=3, 4, 5, 6, 7 and 2 more") for line in said]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [(1, [0, 1]), (1.0, [0, 1]), (True, [2]), ("1", [3]), (0, [4]), (False, [5]), (None, [6]), ([1, True], [0, 1, 2])],
)
def test_mapping_tells_true_from_one(wanted: Any, ids: list[int]) -> None:
    """1 is 1.0, True is not 1, "1" is neither."""
    values = [1, 1.0, True, "1", 0, False, None]
    assert ids == passing({"x": wanted}, *({"x": value} for value in values))


def test_mapping_tells_true_from_one_inside_lists() -> None:
    """Equality is the same in lists as outside of them, however deep."""
    flags = ({"x": [True, False]}, {"x": [1, 0]}, {"x": [1.0, 0.0]})
    assert [0] == passing({"x": [True, False]}, *flags)
    assert [0] == passing({"x": [[True, False]]}, *flags)
    assert [1, 2] == passing({"x": [[1, 0]]}, *flags)


def test_mapping_value_that_is_a_list() -> None:
    """A list is one of several values, or the value itself; a list of lists is one of several lists."""
    widths: tuple[dict[str, Any], ...] = ({"nn": [64, 64]}, {"nn": [32]}, {"nn": 64}, {"nn": []})
    assert [0, 2] == passing({"nn": [64, 64]}, *widths)
    assert [0, 1] == passing({"nn": [[64, 64], [32]]}, *widths)
    assert [3] == passing({"nn": [[]]}, *widths)


def test_several_values_are_several_in_whatever_they_come() -> None:
    """Values are listed as Python, NumPy and pandas list them; each is as the same list, and is told as it."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    numbers = [1, 2]
    listings = (
        *(tuple(numbers), set(numbers), frozenset(numbers), range(1, 3), iter(numbers)),
        *(dict.fromkeys(numbers).keys(), {"a": 1, "b": 2}.values(), map(int, numbers), (each for each in numbers)),
        *(numpy.array(numbers), [numpy.int64(1), 2], pandas.Series(numbers), pandas.Index(numbers)),
    )
    for listing in listings:
        (rule,) = filters.parse({"seed": listing})
        assert "{seed: [1, 2]}" == rule.text
        jobs = jobs_of(*GRID)
        assert [0, 1, 2, 3, 6, 7, 8, 9] == [job.id for job in filters.apply([rule], jobs, facts_of(jobs)).jobs]
    widths: tuple[dict[str, Any], ...] = ({"nn": [64, 64]}, {"nn": [32, 32]}, {"nn": 64}, {"nn": [16, 16]})
    for listing in (numpy.array([[64, 64], [32, 32]]), ((64, 64), (32, 32)), [numpy.array([64, 64]), [32, 32]]):
        assert [0, 1] == passing({"nn": listing}, *widths)
    assert TD3 == passing({"algorithm": pandas.Series(["TD3", "SAC"])})


def test_mapping_leaves_out_jobs_that_lack_the_variable() -> None:
    """A job without the variable has none of its values."""
    assert [0] == passing({"b": [1, 2]}, {"a": 1, "b": 1}, {"a": 1}, {"a": 1, "b": 3})


def test_no_filter_keeps_all() -> None:
    """None is no rule at all."""
    assert () == filters.parse(None)
    assert list(range(12)) == passing(None)


def test_explanation_tells_per_rule_what_was_dropped() -> None:
    """Each rule says how many jobs it saw and which it dropped; together they account for every job."""
    jobs = jobs_of(*GRID)
    rules = filters.parse([{"algorithm": "TD3"}, "seed < 3", "0-2", "sample:2@1"])
    selection = filters.apply(rules, jobs, facts_of(jobs))
    assert ["{algorithm: TD3}", "seed < 3", "0-2", "sample:2@1"] == [step.rule for step in selection.dropped]
    assert [12, 6, 4, 3] == [step.seen for step in selection.dropped]
    assert [(6, 7, 8, 9, 10, 11), (4, 5), (3,)] == [step.ids for step in selection.dropped[:3]]
    gone = [job_id for step in selection.dropped for job_id in step.ids]
    assert list(range(12)) == sorted([*gone, *(job.id for job in selection.jobs)])


def test_nothing_passing_says_why() -> None:
    """When nothing passes, the sentence has each rule with its numbers, and the values there are."""
    jobs = jobs_of(*GRID)
    selection = filters.apply(filters.parse(["algorithm == 'TD3'", {"seed": 7}]), jobs, facts_of(jobs))
    with pytest.raises(FilterError) as refused:
        filters.require_some(selection.jobs, selection.dropped, jobs, "experiments/train")
    for part in (
        "experiments/train",
        "algorithm == 'TD3' dropped 6 of 12",
        "{seed: 7} dropped 6 of 6",
        "algorithm is one of 'TD3', 'DDPG'",
        "seed is one of 1, 2, 3",
    ):
        assert part in str(refused.value)
    filters.require_some(jobs, (), jobs, "anywhere")


@pytest.mark.parametrize(
    "written", ["sed < 3", {"sed": 3}, "algorithm == TD3", "seed < 3 and sed", "sed.x == 1", "[sed < 3]"]
)
def test_unknown_name_says_which_names_exist(written: Any) -> None:
    """A name that no job has is refused with the names there are."""
    said = refusal(written)
    assert "'sed" in said or "'TD3'" in said
    assert "algorithm, lr, seed" in said


@pytest.mark.parametrize(
    "text",
    [
        "seed <",
        "seed = 1",
        "(seed",
        "seed == 1;",
        "seed 1",
        "",
        " ",
        "import os",
        "seed == '",
        "state",
        "seed\x00",
        "1 +",
        "3,a",
    ],
)
def test_no_expression(text: str) -> None:
    """Text that is nothing of what a filter can be is refused in a sentence that quotes it."""
    assert repr(text.strip())[1:-1] in refusal(text)


@pytest.mark.parametrize(
    "text", ["{algorithm: TD3", "[1, 2", "{a: b: c}", "{a: [}", "[\t{]", "{~}", "{null: 1}", "{[1]: 2}"]
)
def test_no_yaml(text: str) -> None:
    """Text that starts as a mapping or a list and is none is refused and quoted."""
    assert repr(text) in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "sample:",
        "sample:x",
        "sample:-1",
        "sample:1.5",
        "sample:3@x",
        "sample:3@-1",
        "sample:@3",
        "sample:²",
        "sample:1 2",
    ],
)
def test_bad_sample(text: str) -> None:
    """A sample that is none says how to write one."""
    assert "sample:10" in refusal(text)


@pytest.mark.parametrize("text", ["state:", "state:DONE", "state:FAILED,", "state:FAILED;TIMEOUT"])
def test_bad_state(text: str) -> None:
    """A word that is no state is refused with those there are, when the filter is read."""
    with pytest.raises(FilterError, match=r"is no state.*PENDING.*OUT_OF_MEMORY.*LOST"):
        filters.parse(text)


@pytest.mark.parametrize(
    ("written", "job"), [("99", 99), ([3, 12], 12), ("0-999999999", 12), ([-1], -1), (range(11, 13), 12)]
)
def test_unknown_id_says_which_ids_exist(written: Any, job: int) -> None:
    """An id that no job has is refused, at once, with the ids there are."""
    said = refusal(written)
    assert f"names job {job}," in said
    assert "0-11" in said


def test_unknown_id_after_another_rule_says_which_ids_exist() -> None:
    """Jobs that a rule before dropped are there nevertheless."""
    said = refusal(["algorithm == 'TD3'", "99"])
    assert "there are jobs 0-11" in said


def test_id_that_a_rule_before_dropped_is_no_error() -> None:
    """An id names a job of the experiment, whether or not it is still in the race."""
    assert [5] == passing(["algorithm == 'TD3'", "5-7"])


def test_ids_of_a_table_are_ids() -> None:
    """What NumPy and pandas give as ids chooses the jobs of these ids."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    for one in (numpy.int64(7), numpy.array(7), numpy.uint8(7), [numpy.int64(7)], pandas.Series([7]), numpy.array([7])):
        assert [7] == passing(one)
    assert [3] == passing([numpy.array([7, 3]), "seed > 1", pandas.Index([3, 7, 0])])
    assert "cannot be a bool" in refusal(numpy.bool_(True))
    assert "cannot be a float" in refusal(numpy.array([0.5]))


@pytest.mark.parametrize("written", [True, 1.5, object(), b"0-3", [1.5], [True]])
def test_what_is_no_filter(written: Any) -> None:
    """Anything else is refused by the name of its type."""
    assert "cannot be a" in refusal(written)


def test_keys_that_are_no_names_are_refused() -> None:
    """The keys of a mapping are names of variables."""
    assert "keys are names" in refusal({1: 2})


def test_callable_that_raises_is_named_with_the_job() -> None:
    """A function that fails is told with the job, its variables and the error."""
    for written in (fails, f"{__name__}.fails", {"_target_": f"{__name__}.fails"}):
        said = refusal(written)
        assert "fails failed on job 0" in said
        assert "KeyError: 'nothing'" in said
        assert "'algorithm': 'TD3'" in said


def test_callable_cannot_spoil_the_variables() -> None:
    """A function gets variables of its own: what it does to them, later rules do not see."""
    assert TD3 == passing([spoils, "algorithm == 'TD3'"])


def test_lambda_and_truth_of_what_it_returns() -> None:
    """Whatever a function returns counts as true or false."""
    assert [0, 1, 6, 7] == passing(lambda variables: variables["seed"] % 3 if variables["seed"] < 2 else [])


@pytest.mark.parametrize(
    "path",
    [
        "no_such_module.function",
        f"{__name__}.no_such_function",
        f"{__name__}.NO_FUNCTION",
        "os.path.nope",
        "algorithmm.x",
    ],
)
def test_path_of_no_function(path: str) -> None:
    """A dotted path that leads to no function is refused as it was written."""
    assert repr(path) in refusal(path)
    assert repr(path) in refusal({"_target_": path})


@pytest.mark.parametrize("path", ["", "function", ".", "a."])
def test_target_that_is_no_path(path: str) -> None:
    """A `_target_` that is no dotted path is refused, too."""
    assert repr(path) in refusal({"_target_": path})


def test_function_in_a_module_beside_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working directory is found, and `sys.path` is afterwards what it was."""
    (tmp_path / "my_own_filter.py").write_text("def even(variables):\n    return variables['seed'] % 2 == 0\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert [2, 3, 8, 9] == passing("my_own_filter.even")
    assert before == sys.path


@pytest.mark.parametrize(
    "text",
    [
        "seed.__class__",
        "algorithm.__class__.__mro__[1].__subclasses__()",
        "''.__class__",
        "().__class__.__bases__",
        "cfg.__class__",
        "cfg.nn.__init__",
        "variables.__class__",
        "len.__self__",
        "algorithm.lower.__self__",
        "algorithm.format(seed)",
        "'{0.__class__}'.format(seed)",
        "f'{seed.__class__}'",
        "__import__('os')",
        "open('/etc/passwd')",
        "eval('1')",
        "globals()",
        "getattr(seed, 'real')",
        "(lambda: 1)()",
        "lambda: 1",
        "len([x for x in (1,).__class__.__bases__])",
        "9**9**9 > seed",
        "2 ** 10 ** 8 > seed",
        "'a' * 10 ** 9 > algorithm",
        "seed << 10 ** 9",
        "(seed := 5)",
        "print(seed)",
        "yield_(1)",
        "cfg.update(1)",
        "cfg.clear()",
        "cfg.nn.append(1)",
        "str.join('a', 'b')",
    ],
)
def test_expression_cannot_escape(text: str) -> None:
    """An expression reads variables and compares them; whatever leads out of it, or takes ages, is refused."""
    assert text in refusal(text, {"algorithm": "TD3", "seed": 1}, configurations={0: {"nn": [1]}})


@pytest.mark.parametrize(
    "text",
    [
        "f'{seed:>9999999999}' == 'x'",
        "f'{seed:.9999999999f}' == 'x'",
        "f'{seed:{seed}000000000}' == 'x'",
        "f'{seed:٩٩٩٩٩٩٩٩٩٩}' == 'x'",
        "f'{seed:>９９９９９９９９９９}' == 'x'",
        "f'{seed:.९९९९९९९९९९f}' == 'x'",
        "f'{seed:{seed}٠00٠00٠00٠}' == 'x'",
        "f'{1001 * algorithm}' == 'x'",
        "f'{cfg.many}{cfg.many}' == 'x'",
        "f'{cfg.many!r}' == 'x'",
        "f'{2 ** 99999:b}' == algorithm",
        "f'{len}' == 'x'",
        "str(len) == 'x'",
        "'%9999999999d' % seed == 'x'",
        "b'%9999999999d' % seed == 'x'",
        "str([[1] * 1000] * 100) == algorithm",
        "seed == [[1] * 100000] * 100000",
        "seed == ([[1] * 999] * 999, 1)",
        "1001 * 'a' == algorithm",
        "3999999 ** 3999999 > seed",
        "(2 ** 99999) * (2 ** 99999) > seed",
        "(" + " * ".join(["2 ** 50000"] * 99) + ") > seed",
        "-2 ** 100001 < seed",
        "str(cfg) == 'x'",
        "str([cfg.many]) == 'x'",
        "str(cfg.deep) == 'x'",
        "str({1: cfg.many}) == 'x'",
        "str(seed=1)",
        "1 == [[seed for seed in 'a' * 999] for seed in 'a' * 999]",
        "len({seed: seed for seed in 'a' * 999}) > 1",
        "{a: &a [1,1], b: &b [*a,*a], c: &c [*b,*b], d: [*c,*c]}",
        "[&a seed < 3, *a]",
    ],
)
def test_nothing_that_is_written_takes_ages_or_memory(text: str) -> None:
    """A few words that stand for gigabytes, or for hours, are refused within a second, in one sentence."""
    start = time.process_time()
    configuration = {"nn": [1], "many": [1] * 10**5, "deep": [[1] * 100] * 5000}
    said = refusal(text, {"algorithm": "TD3", "seed": 1}, configurations={0: configuration})
    assert time.process_time() - start < 1
    assert (1, True) == (len(said.splitlines()), text in said)


@pytest.mark.parametrize("form", ["٩٩٩٩", "9９99", ">{seed}٠00", "…^9"])
def test_a_format_is_ascii(form: str) -> None:
    """Digits of other scripts are none that are counted, and are refused before anything is made."""
    assert "a format is of ASCII letters and digits" in refusal(f"f'{{seed:{form}}}' != 'x'")


class Immense:
    """What takes more memory than there is to be compared."""

    def __eq__(self, other: object) -> bool:
        raise MemoryError

    __hash__ = None  # type: ignore[assignment]


def test_a_filter_that_needs_more_memory_than_there_is_says_so() -> None:
    """In a sentence, with the job that it was asked for."""
    said = refusal("seed == 1", {"seed": Immense()})
    assert "the filter 'seed == 1' cannot be evaluated for job 0: it needs more memory than there is" == said


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("(1, 1) == (1,) * 2 and 2 ** 0.5 > 1.4 and 2 ** 64 > seed and 7.5 % 2 == 1.5", list(range(12))),
        ("str(seed) == '2' and 'ab' * 2 == 'abab'", [2, 3, 8, 9]),
        ("algorithm.startswith('T')", TD3),
        ("algorithm.lower() == 'td3'", TD3),
        ("'3' in algorithm", TD3),
        ("len(algorithm) == 3", TD3),
        ("algorithm[0] == 'T'", TD3),
        ("1 < seed <= 2 and lr == 1e-3", [2, 8]),
        ("seed % 2 == 0 or seed == max(3, 1)", [2, 3, 4, 5, 8, 9, 10, 11]),
        ("variables['algorithm'] == 'TD3'", TD3),
        ("\n seed == 1 \n", [0, 1, 6, 7]),
        ("True", list(range(12))),
        ("seed if algorithm == 'TD3' else 0", TD3),
        ("str([seed, (algorithm, None)]) == \"[1, ('TD3', None)]\"", [0, 1]),
        ("str({'a': [seed]}) == \"{'a': [1]}\"", [0, 1, 6, 7]),
        ("f'{algorithm}-{seed:02d}-{lr:.1e}' == 'TD3-01-1.0e-01'", [1]),
        ("f'{algorithm!r:>{seed + 4}}|{[seed]}' == \"'TD3'|[1]\"", [0, 1]),
    ],
)
def test_what_expressions_can_do(text: str, ids: list[int]) -> None:
    """Comparisons, arithmetic, a few functions and a few methods of text."""
    assert ids == passing(text)


def test_variable_with_dots() -> None:
    """A dotted name is one variable: in a mapping, in an expression, alone, and with a method of text."""
    models = ({"model.w": 3, "model.name": "big"}, {"model.w": 0, "model.name": "small"})
    assert [0] == passing({"model.w": 3}, *models)
    assert [0] == passing("{model.w: 3}", *models)
    assert [0] == passing("model.w == 3", *models)
    assert [0] == passing("model.w", *models)
    assert [1] == passing("model.name.startswith('s')", *models)
    assert [0] == passing("variables['model.w'] == 3", *models)
    assert "'model.x'" in refusal("model.x == 3", *models)
    assert "'model" in refusal("model == 3", *models)


def test_group_and_its_dotted_child() -> None:
    """A group `db` and a value `db.port` are two variables; neither hides the other."""
    both = ({"db": "mysql", "db.port": 1}, {"db": "mysql", "db.port": 2}, {"db": "sqlite"})
    assert [0] == passing("db == 'mysql' and db.port == 1", *both)
    assert [2] == passing("db.port == None", *both)
    assert [0, 1] == passing("db.startswith('my')", *both)
    assert [1] == passing({"db": "mysql", "db.port": 2}, *both)
    assert "db.user" in refusal("db.user == 1", *both)


def test_variable_that_some_jobs_lack_is_none() -> None:
    """In an expression a variable that this job does not have is None, however it is written."""
    some = ({"a": 1, "db@source": "x"}, {"b": 2})
    assert [0] == passing("a == 1", *some)
    assert [1] == passing("a == None", *some)
    assert [1] == passing("b and not a", *some)
    assert [0] == passing("variables['db@source'] == 'x'", *some)
    assert [0] == passing("a < 3", *some)
    assert "job 0" in refusal("a < 'x'", *some)


def test_variable_that_holds_a_mapping() -> None:
    """A variable can hold a mapping or a list: its parts are read as those of the configuration."""
    some = ({"opt": {"lr": 1}, "nn": [64, 32]}, {"opt": {"lr": 2}, "nn": [64]})
    assert [1] == passing("opt.lr == 2", *some)
    assert [1] == passing("opt['lr'] == 2", *some)
    assert [0] == passing("nn[-1] == 32", *some)
    assert [1] == passing("nn == [64]", *some)
    assert [0] == passing({"opt": {"lr": 1}}, *some)


def test_variable_named_as_a_function_is_the_variable() -> None:
    """Names of variables come first: `min`, `len` and even `cfg` can be variables."""
    some = ({"min": 1, "len": "a", "cfg": 5}, {"min": 2, "len": "b", "cfg": 6})
    assert [0] == passing("min == 1", *some)
    assert [1] == passing("len == 'b' and cfg == 6", *some)


CONFIGURATIONS = {
    0: {"nn": [64, {"act": "relu"}], "opt": {"lr": 0.1, "clear": 1}, "flag": True, "one": 1},
    1: {"nn": [32, {"act": "tanh"}], "opt": {"lr": 0.2, "clear": 2}, "flag": False, "one": 2},
}


@pytest.mark.parametrize(
    "written",
    [
        "cfg.nn[0] == 64",
        "cfg.nn[1].act == 'relu'",
        "cfg.nn[-1]['act'].startswith('re')",
        "cfg['nn'][0] > 32",
        "cfg.opt.lr < 0.15 and seed == 1",
        "cfg.opt.clear == 1",
        "cfg.flag",
        "len(cfg.nn) == 2 and 'opt' in cfg and cfg.one == 1",
        {"cfg.opt.lr": [0.1, 0.3]},
        {"cfg.nn.0": 64},
        {"cfg.nn.1.act": "relu", "seed": 1},
        {"cfg.flag": True},
        "{cfg.one: 1}",
        ["seed == 1", {"cfg.one": [1, 2]}],
    ],
)
def test_configuration_is_read_through_cfg(written: Any) -> None:
    """`cfg` reads mappings and lists of the composed configuration, in expressions and in mappings."""
    assert [0] == passing(written, {"seed": 1}, {"seed": 2}, configurations=CONFIGURATIONS)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("cfg.nm[0] == 1", "cfg.nm"),
        ("cfg.opt.rl == 1", "cfg.opt.rl"),
        ("cfg['opt']['rl'] == 1", "rl"),
        ("cfg.nn[7] == 1", "job 0"),
        ("cfg.nn.act == 1", "act"),
        ("cfg.one.x == 1", "x"),
    ],
)
def test_missing_key_of_the_configuration(text: str, part: str) -> None:
    """A key that the configuration has not is refused with the filter and the key."""
    said = refusal(text, {"seed": 1}, configurations=CONFIGURATIONS)
    assert text in said
    assert part in said


def test_missing_key_of_the_configuration_says_what_there_is() -> None:
    """Where a key is missing, the keys that are there are named."""
    assert "nn, opt, flag, one" in refusal("cfg.nm == 1", {"seed": 1}, configurations=CONFIGURATIONS)
    assert "lr, clear" in refusal("cfg.opt.rl == 1", {"seed": 1}, configurations=CONFIGURATIONS)


def test_configuration_is_composed_only_when_it_decides() -> None:
    """A filter that can say no from the variables alone composes nothing for that job."""
    assert [0] == passing("seed == 1 and cfg.one == 1", {"seed": 1}, {"seed": 2}, configurations={0: CONFIGURATIONS[0]})
    assert [0] == passing({"seed": 1, "cfg.one": 1}, {"seed": 1}, {"seed": 2}, configurations={0: CONFIGURATIONS[0]})


@examples(50)
@given(st.integers(0, 14), st.integers(0, 5), st.permutations(range(12)))
def test_sample_is_the_same_for_the_same_seed(count: int, seed: int, order: list[int]) -> None:
    """A sample depends on the ids that are left and on the seed alone, not on the order in which jobs come."""
    jobs = jobs_of(*GRID)
    rules = filters.parse(f"sample:{count}@{seed}")
    first = filters.apply(rules, jobs, facts_of(jobs))
    again = filters.apply(rules, [jobs[place] for place in order], facts_of(jobs))
    assert min(count, 12) == len(first.jobs)
    assert {job.id for job in first.jobs} == {job.id for job in again.jobs}
    assert [job.id for job in first.jobs] == sorted(job.id for job in first.jobs)


def test_sample_seeds() -> None:
    """Without a seed it is seed 0; other seeds draw other jobs."""
    assert passing("sample:4@0") == passing("sample:4")
    assert 1 < len({tuple(passing(f"sample:4@{seed}")) for seed in range(10)})


def test_sample_is_drawn_from_what_is_left() -> None:
    """A sample looks at the jobs that the rules before let pass, and at those only."""
    for seed in range(10):
        chosen = passing(["algorithm == 'TD3'", f"sample:3@{seed}"])
        assert 3 == len(chosen)
        assert set(TD3) >= set(chosen)
    assert TD3 == passing(["algorithm == 'TD3'", "sample:6@4"])


def test_filters_are_read_once_and_asked_often() -> None:
    """Rules hold nothing of the jobs that they saw: asked again, they answer the same."""
    rules = filters.parse(["seed < 3", {"algorithm": "TD3"}, "sample:2"])
    jobs = jobs_of(*GRID)
    first, again = (filters.apply(rules, jobs, facts_of(jobs)) for _ in range(2))
    assert first == again
    assert () == filters.apply(rules[:2], [], facts_of(jobs)).jobs


def test_jobs_go_through_one_by_one() -> None:
    """A filter holds no jobs: the first that passes comes out before the second one goes in."""
    came: list[int] = []

    def coming() -> Iterator[Job]:
        for job in jobs_of(*GRID):
            came.append(job.id)
            yield job

    facts = facts_of(jobs_of(*GRID))
    passing = filters.Passing(filters.parse(["seed < 3", {"algorithm": "TD3"}, "0-11"]), coming(), facts)
    assert 0 == next(iter(passing)).id
    assert [0] == came
    assert [1, 2, 3] == [job.id for job in passing]
    assert [4, 4, 0] == [len(step.ids) for step in passing.dropped]
    assert list(range(12)) == came


@pytest.mark.parametrize("expression", ["seed == 1", "str(seed) == '1'", "seed and seed < 2"])
def test_answers_are_remembered_by_type(expression: str) -> None:
    """1, 1.0 and True are three values: what is true of one says nothing of the others."""
    values = [{"seed": value} for value in (1, 1.0, True, 1, 2, 0.0, -0.0, None)]
    wanted = [place for place, each in enumerate(values) if eval(expression, {"str": str}, each)]
    assert wanted
    assert wanted == passing(expression, *values)


def asked(
    written: Any, jobs: list[Job], results: Mapping[int, Any] | None = None, metrics: Mapping[int, Any] | None = None
) -> tuple[list[int], list[str]]:
    """The ids that pass a filter on what jobs have left, and what was said."""
    said: list[str] = []
    facts = facts_of(jobs, {job.id: {"lr": job.variables.get("lr")} for job in jobs})._replace(
        result=lambda job: (results or {}).get(job.id),
        metrics=lambda job: (metrics or {}).get(job.id, {}),
        note=said.append,
    )
    return [job.id for job in filters.apply(filters.parse(written), jobs, facts).jobs], said


@pytest.mark.parametrize("written", ["lr < 0.15", "cfg.lr < 0.15", "lr.startswith('O') or True", "1 / lr > 9"])
def test_job_with_a_value_of_another_type_does_not_pass_and_is_told(written: str) -> None:
    """One job's text or null among numbers spoils the filter for no other; one line names the job and its value."""
    jobs = jobs_of({"lr": 0.1}, {"lr": "O.1"}, {"lr": 0.2}, {"lr": None})
    ids, said = asked(written, jobs)
    assert ([1] if "startswith" in written else [0]) == ids
    assert 1 == len(said)
    assert written in said[0]
    other = ("job 0", "nor do 2 more (2-3)") if "startswith" in written else ("job 1", "lr='O.1'", "nor do 1 more (3)")
    assert all(part in said[0] for part in other)
    assert "job 0" in refusal(written, {"lr": [1]}, configurations={0: {"lr": [1]}})  # it fits no job: a mistake


def test_what_jobs_have_left_is_asked_for() -> None:
    """`result` is what a job returned, `metric` what it last logged; of a job that has none nothing that is asked is
    true, and nothing is said of it; a field that only some have is asked of those."""
    jobs = jobs_of(*({"lr": lr} for lr in (0.1, 0.2, 0.3, 0.4)))
    results = {0: {"accuracy": 0.98, "best": {"step": 3}}, 1: {"accuracy": 0.9, "best": {"step": 9}}, 2: 0.99}
    metrics = {0: {"loss": 0.2, "train/loss": 0.1}, 3: {"loss": 0.05}}
    for written, ids in (
        ("result.accuracy > 0.97 and lr < 1", [0]),
        ("result.best.step == 9", [1]),
        ({"result.best.step": [3, 9]}, [0, 1]),
        ({"result": 0.99}, [2]),
        ("metric.loss < 0.1", [3]),
        ("metric['loss'] < result.accuracy or lr == 0.2", [0, 1]),
        ("not result.accuracy > 0.97", [1]),
        ({"metric.loss": 0.05, "lr": 0.4}, [3]),
    ):
        assert ids == asked(written, jobs, results, metrics)[0], written
    assert ([], []) == asked("result.accuracy > 0.97", jobs)
    assert ([], []) == asked({"metric.loss": 1}, jobs)
    with pytest.raises(FilterError, match=r"result\.acc.*there are: accuracy, best"):
        asked("result.acc > 1", jobs[:2], results)
    with pytest.raises(FilterError, match=r"names metric\.lost, which no job's metrics has"):
        asked({"metric.lost": 1}, jobs, results, metrics)


@pytest.mark.parametrize(
    ("written", "meant"), [("lr=0.1", "lr == 0.1"), ("cfg.a = TD3", "cfg.a == 'TD3'"), ("a = None", "a == None")]
)
def test_one_equals_sign_says_that_two_are_meant(written: str, meant: str) -> None:
    """An assignment, as a sweep has it, is no expression: what to write is said; a list is always true."""
    assert f"write {meant}" in refusal(written)
    assert "write `and` between them" in refusal("lr == 0.1, seed == 2")


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("'seed > 2'", "is text, not a condition; leave the inner quotes out"),
        ("'lr=0.1'", "leave the inner quotes out"),
        ("''", "leave the inner quotes out"),
        ("0.5", "names no variable"),
        ("0.0", "names no variable"),
        ("None", "names no variable"),
        ("(1)", "names no variable"),
        ("1 == 1 and 0.5", "names no variable"),
        ("seed > 0 and 1", "1 is no condition"),
        ("len('seed')", "names no variable"),
        ("'TD3'.startswith('T')", "names no variable"),
        ("not 0.5", "names no variable"),
        ("lr == 0.1 or 0.2", "0.2 is no condition: it says the same of every job; write lr in [0.1, 0.2]"),
        ("algorithm == 'TD3' or 'DDPG'", "'DDPG' is text, not a condition; write algorithm in ['TD3', 'DDPG']"),
        ("lr == (0.1 or 0.2)", "write lr in [0.1, 0.2]"),
        ("lr == 0.1 and 'seed > 2'", "'seed > 2' is text, not a condition; write for example"),
        ("seed == 1 and not 2", "2 is no condition"),
        ("seed == 1 or (lr == 0.1 and -1)", "-1 is no condition"),
        ("seed == 1 or (1, 2)", "(1, 2) is no condition"),
        ("seed == 1 or None", "None is no condition"),
        ("seed == 1 or len('a')", "len('a') is no condition"),
    ],
)
def test_what_says_the_same_of_every_job_is_refused(written: str, part: str) -> None:
    """A condition asks something of the job: what a text, a number or a list is worth passes all jobs, or none, and
    who removes or cancels by it means something else."""
    for form in (written, [written], ["seed < 3", written]):
        said = refusal(form)
        assert part in said
        assert written in said
    for meant in ("True", "1 == 1", "not False", "True and True", "seed > 0 or (1 == 1 and not False)"):
        assert list(range(12)) == passing(meant), meant  # who writes that means it
    for meant in ("False", "1 == 2", "not True", "seed > 0 and 1 == 2"):
        assert [] == passing(meant), meant
    assert [0, 2, 4] == passing("(seed or 0) < 4 and lr < 0.1 and algorithm == ('TD3' if seed else None)")


ASKED = {
    "one == 1": True,
    "one > 1": False,
    "result.score > 1": None,
    "not metric.loss": None,
    "other > 1": None,
    "1 < min(other, 3)": None,
    "other == None": True,
    "text.startswith('T')": None,
    "variables['text'].startswith('T')": None,
    "variables['other'] > 1": None,
    "(result.score or 999) > 10": None,
    "(1 == one and (metric.loss or True)) == True": None,
    "(other or 3) == 3": True,
}


@st.composite
def conditions(draw: st.DrawFn) -> tuple[str, bool | None]:
    """A condition on a job that has `one`, and no other variable, no result and no metrics, and whether it holds."""
    found: list[tuple[str, bool | None]] = draw(st.lists(st.sampled_from(list(ASKED.items())), min_size=1, max_size=4))
    while len(found) > 1:
        (first, one), (second, another) = (found.pop(draw(st.integers(0, len(found) - 1))) for _ in range(2))
        word, decides = draw(st.sampled_from((("or", True), ("and", False))))
        is_known = decides in (one, another) or None not in (one, another)
        truth = None if not is_known else decides if decides in (one, another) else not decides
        found.append((f"({first} {word} {second})", truth))
        if draw(st.booleans()):
            found[-1] = (f"(not {found[-1][0]})", None if truth is None else not truth)
    return found[0]


@examples(300)
@given(conditions())
def test_what_is_not_known_of_a_job_decides_nothing(condition: tuple[str, bool | None]) -> None:
    """In whichever order: `or` holds where one side does, `and` fails where one does, and what hangs on the unknown is
    neither true nor false, so that neither it nor its contrary passes."""
    text, truth = condition
    jobs = jobs_of({"one": 1}, {"other": 1, "text": "T"})
    for written, is_true in ((text, truth is True), (f"not {text}", truth is False)):
        ids, said = asked(written, jobs)
        assert (is_true, []) == (0 in ids, said), written


@pytest.mark.parametrize(
    "written",
    [
        "(result.loss or 999) > 10",
        "not (result.score or 100) < 5",
        "min(result.loss or 9, 3) == 3",
        "-(metric.loss or 1) < 0",
        "1 == [1, 2][result.place or 0]",
        "(result.score or 1) if seed else 1",
        "(result.score or 7) + 1 == 8 or seed > 5",
    ],
)
def test_no_value_stands_for_one_that_is_not_known(written: str) -> None:
    """What is computed of a result is not known of a job that has none, also where it names a value for zero: `remove`
    and `cancel` take no job for what is not there."""
    assert ([], []) == asked(written, jobs_of({"seed": 1}, {"seed": 2}))


@pytest.mark.parametrize(
    "written",
    [
        "lr > 0.05 and algorithm.startswith('T')",
        "result.score > 1 and algorithm.startswith('T')",
        "result.score > 1 and 1 / (seed - 1) > 0",
        "result.score > 1 and seed.startswith('T')",
        "result.score > 1 and (seed.startswith('T') or lr > 0)",
        "result.score > 1 and cfg.nothing > 0",
        "algorithm.startswith('T')",
        "not algorithm.startswith('D') and lr > 0",
    ],
)
def test_nothing_is_said_of_a_job_that_has_not_come_so_far(written: str) -> None:
    """What cannot be evaluated is told where it is the first that is not known: behind another it decides nothing; nor
    is it told of a variable that the job lacks."""
    jobs = jobs_of({"seed": 1}, {"seed": 2, "lr": 0.1, "algorithm": "DDPG"})
    assert ([], []) == asked(written, jobs)


UNRESOLVED = {0: {"m": facts.Unresolved("m", "${mul:${x},10}", "no resolver mul"), "nn": [1, {"w": 2}], "size": 3}}


@pytest.mark.parametrize(
    "written",
    ["cfg.m != 10", "10 == cfg.m", "cfg.m", "cfg.m + 1 > 2", "cfg.m.x == 1", "cfg['m'] in [1]", "1 in cfg.m",
     {"cfg.m": 10}, {"cfg.m.x": 1}, "str(cfg.m) == 'a'", "not cfg.m", "str(cfg) == ''", "f'{[cfg.m]}' == ''",
     "f'{cfg.m!r:>9}' == ''", "float(cfg.m) > 1", "cfg['m'][0] == 1"],
)  # fmt: skip
def test_question_about_an_interpolation_that_cannot_be_resolved_is_refused(written: Any) -> None:
    """Whatever is asked about it has no answer: the sentence names the key and the interpolation."""
    said = refusal(written, {"x": 1}, configurations=UNRESOLVED)
    assert "cfg.m, which is ${mul:${x},10} and cannot be resolved here (no resolver mul)" in said
    assert [0] == passing("cfg.size == 3 and cfg.nn[1].w == 2", {"x": 1}, configurations=UNRESOLVED)


@pytest.mark.parametrize(
    "configuration",
    [{None: 1, "a": "${x}"}, {(1, 2): 1, "a": "${x}"}, {"a": "${"}, {"a": "${x}", "b": {None: {"c": "${a}"}}}],
)
def test_a_configuration_that_omegaconf_cannot_hold_is_seen_as_it_is(configuration: Any) -> None:
    """Jobs that were defined in Python may have any keys and texts; nothing in these is an interpolation."""
    encoded = codec.encode(configuration)
    assert codec.decode(encoded) == configuration
    assert facts.resolved(encoded) == configuration
