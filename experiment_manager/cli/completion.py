"""What a shell completes: ids of jobs, states, tags, columns, and the options of `run`.

A shell waits for each answer, and shows nothing else: what cannot be read completes nothing, and says nothing.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from importlib import import_module
from io import StringIO
from itertools import islice
from typing import Any, Final

import typer
from typer.core import TyperCommand

from experiment_manager.experiment import Experiment
from experiment_manager.model.records import State
from experiment_manager.store.layout import Folder
from experiment_manager.text import settings_text

_MOST: Final = 200
"""So many values are offered at once."""

_MOST_HELP: Final = 60

Found = Iterable[tuple[str, str]]
"""Values, each with a help, which may be empty."""


def _plain(values: Iterable[object]) -> Found:
    return [(str(value), "") for value in values]


def _completed(values: Callable[[str], Found], *, are_several: bool = False) -> Callable[..., list[Any]]:
    """What typer takes for a completion; `are_several`: the last one of a list, as `0-3,7,1`, is completed."""

    def complete(incomplete: str) -> list[Any]:
        before, comma, last = incomplete.rpartition(",") if are_several else ("", "", incomplete)
        with _silent():
            fitting = ((value, about) for value, about in values(last) if value.startswith(last))
            return [(f"{before}{comma}{value}", about) for value, about in islice(fitting, _MOST)]
        return []

    return complete


@contextmanager
def _silent() -> Iterator[None]:
    with redirect_stderr(StringIO()), suppress(Exception):
        yield


def _words() -> list[str]:
    """The line so far, as the shell tells it: where an option lacks its value, nothing else of it is read."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return shlex.split(line)


def _experiment() -> Experiment:
    """That of the first word that names one. Raises StopIteration."""
    return Experiment.at(next(word for word in _words()[2:] if Folder.at(word).is_experiment()))


def _jobs(incomplete: str) -> Found:
    return _of_jobs(_experiment(), incomplete)


def _of_jobs(experiment: Experiment, incomplete: str) -> Found:
    for job in experiment.iter_jobs():
        if str(job.id).startswith(incomplete):
            yield str(job.id), settings_text(job.variables)[:_MOST_HELP]


def _states(incomplete: str) -> Found:
    """As people type them: in small letters where they have begun so."""
    return _plain(state.lower() if incomplete.islower() or not incomplete else state for state in State)


def _variables(_: str) -> Found:
    return _plain(_experiment().variables)


def _names_of_columns() -> list[str]:
    experiment, words = _experiment(), _words()
    if words[1] == "jobs":
        return ["job", "state", "attempt", "selected", *experiment.variables]
    if "--group-by" in words:
        return [*words[words.index("--group-by") + 1].split(","), "count"]
    return experiment.result_columns()


def _columns(_: str) -> Found:
    return _plain(_names_of_columns())


def _numbers(_: str) -> Found:
    rows = _experiment().result_rows(pruned=True)[:_MOST]
    return _plain(dict.fromkeys(name for row in rows for name in (*row["result"], *row["metrics"])))


def _launches(_: str) -> Found:
    from experiment_manager.store.launches import launch_numbers

    return _plain(launch_numbers(_experiment().folder))


jobs, one_job = _completed(_jobs, are_several=True), _completed(_jobs)
states = _completed(_states, are_several=True)
variables = _completed(_variables, are_several=True)
columns, sort_key = _completed(_columns, are_several=True), _completed(_columns)
metric, launch = _completed(_numbers), _completed(_launches)


class RunCommand(TyperCommand):
    """`run` reads its arguments itself, in less time than others need to start: see `execution.run`."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Its options, its folder, and the ids of jobs."""
        from experiment_manager.execution.run import parser

        item = import_module(f"{_package_of_click()}.shell_completion").CompletionItem
        if incomplete.startswith("-"):
            options = {name: one.help for one in parser()._actions for name in one.option_strings}
            return [item(name, help=about) for name, about in options.items() if name.startswith(incomplete)]
        with _silent():
            found = islice(_of_jobs(_experiment(), incomplete), _MOST)
            return [item(value, help=about) for value, about in found]
        return [item(incomplete, type="dir")]


def _package_of_click() -> str:
    """Later versions of typer have their own click."""
    return usage_error().__module__.rpartition(".")[0]


def usage_error() -> type[Exception]:
    """What typer raises for a call that it cannot read."""
    return next(one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException")
