"""A sweep over a large configuration: five groups of forty keys each, twenty of all being interpolations.

Our cost depends on how many combinations of groups there are, since each is composed once, so there are two sweeps of
the same number of jobs: few combinations with many values, and many with few.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.place import Place, composed, planned
from benchmarks.table import Line
from benchmarks.timing import slope, take_turns

GROUPS = ("model", "optimizer", "dataset", "schedule", "task")
N_OPTIONS, N_KEYS, N_INTERPOLATIONS = 5, 40, 4  # the last two of each file

APP = """import hydra


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config):
    pass


main()
"""


def lines(place: Place) -> Iterator[Line]:
    program = place.fresh("tree")
    write_tree(program)
    n_jobs = place.size(2_000, 80)
    small, large = place.size(10, 2), place.size(50, 8)
    sweeps = {
        f"{n_options**3} combinations of groups": _sweep(n_options, n_jobs) for n_options in (2, place.size(5, 2))
    }
    contestants: dict[str, Callable[[], float]] = {
        name: partial(_plan, place, program, sweep) for name, sweep in sweeps.items()
    }
    for size in (small, large):
        contestants[f"basic {size}"] = partial(
            composed, place, program, ["model=model0,model1", f"seed=range({size // 2})"], script="app.py"
        )
    took = take_turns(contestants, rounds=place.rounds)
    cost = slope(took[f"basic {small}"], took[f"basic {large}"], large - small)
    peer = f"basic sweeper, slope from {small} to {large} jobs, nothing launched"
    for name in sweeps:
        what = f"{n_jobs:,} jobs over three groups and two values of a large configuration, {name}, per job"
        yield Line(what=what, ours=took[name].per(n_jobs), peer=peer, theirs=cost, at_most=1 / 20)


def _sweep(n_options: int, n_jobs: int) -> list[str]:
    """So many options of three groups each, and two values that make up the rest."""
    groups = [f"{group}={','.join(f'{group}{i}' for i in range(n_options))}" for group in GROUPS[:3]]
    n_values = n_jobs // n_options**3
    return [*groups, "lr=0.1,0.2", f"seed=range({n_values // 2})"]


def _plan(place: Place, program: Path, sweep: list[str]) -> float:
    return planned(place, program, place.fresh("ours"), sweep, "app.py").seconds


def write_tree(program: Path) -> None:
    """The program and its configuration."""
    conf = program / "conf"
    conf.mkdir()
    (program / "app.py").write_text(APP)
    defaults = "".join(f"  - {group}: {group}0\n" for group in GROUPS)
    (conf / "config.yaml").write_text(f"defaults:\n{defaults}  - _self_\nlr: 0.1\nseed: 0\n")
    for group in GROUPS:
        (conf / group).mkdir()
        for option in range(N_OPTIONS):
            (conf / group / f"{group}{option}.yaml").write_text(_option(group, option))


def _option(group: str, option: int) -> str:
    values = ("{0}", "0.{0}", "text{0}", "[{0}, 1, 2]", "true", "null", "{{depth: {0}, width: 0.5}}", "'{0}'")
    numbers = count()
    plain = [f"key{i}: {values[i % len(values)].format(option + i)}\n" for i in range(N_KEYS - N_INTERPOLATIONS)]
    targets = ("${seed}", "${lr}", f"${{{group}.key0}}", f"${{{group}.key1}}-${{seed}}")
    return "".join([*plain, *(f"link{next(numbers)}: {target}\n" for target in targets)])
