"""The command that runs one job: a list of arguments, built from a recipe and the job's overrides.

    python train.py -cp <experiment>/conf/<hash>/main  <Hydra's overrides>  <the job's overrides>  <ours>

People can paste it. The job's overrides go in verbatim, one argument each; values of our own are quoted as Hydra's
grammar wants it (https://hydra.cc/docs/advanced/override_grammar/basic/).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

from experiment_manager.errors import FreezeError, JobRefused
from experiment_manager.model.records import Job, Recipe, Source
from experiment_manager.store.files import is_file
from experiment_manager.store.layout import Folder
from experiment_manager.store.programs import entry_of
from experiment_manager.typing_names import Final, NamedTuple

_SPECIAL_IN_DOUBLE_QUOTES: Final = frozenset('"$`\\!')

PICKLED_RUNNER: Final = ("-P", "-m", "experiment_manager.execution.pickled_runner")
"""What Python is given before the pickle of a function that runs jobs."""

PLACED_BY_US: Final = ("hydra.searchpath", "hydra.mode", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Overrides of Hydra's own configuration that a job gets from us, whatever the sweep said."""

_MOST_DIGITS: Final = 18
_PLACE: Final = ("hydra.job.num", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.run.dir")
"""The last overrides, in this order, of a job that does not write into its folder of the experiment."""


def quoted(text: str) -> str:
    r"""A single-quoted string of Hydra's grammar that stands for `text`.

    >>> print(quoted("it's"), quoted("a\\"))
    'it\'s' 'a\\'

    Raises FreezeError for text that Hydra would take for an interpolation.
    """
    if "${" in text:
        raise FreezeError(f"{text!r} holds '${{', which Hydra takes for an interpolation; use a path without it")
    if "'" not in text and "\\" not in text:
        return f"'{text}'"
    text = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    text = re.sub(r"(\\+)\Z", lambda match: match[1] * 2, text)
    return f"'{text}'"


def _unquoted(text: str) -> str:
    """What a string that `quoted` made stands for."""
    text = re.sub(r"(\\*)\\'", lambda match: match[1][: len(match[1]) // 2] + "'", text[1:-1])
    return re.sub(r"(\\+)\Z", lambda match: match[1][: len(match[1]) // 2], text)


class Place(NamedTuple):
    """Where Hydra lets a job write, and by which number it knows the job."""

    number: int  # hydra.job.num
    sweep_dir: str
    subdir: str
    directory: str  # the output directory, absolute

    def overrides(self) -> tuple[str, ...]:
        """The same as the last overrides of a job; `place_of` reads it there. Raises FreezeError, as `quoted`."""
        values = (str(self.number), quoted(self.sweep_dir), quoted(self.subdir), quoted(self.directory))
        return tuple(f"{key}={value}" for key, value in zip(_PLACE, values, strict=True))


def has_own_place(job: Job) -> bool:
    """Whether the sweeper that proposed the job has said where it writes."""
    return tuple(override.partition("=")[0] for override in job.overrides[-len(_PLACE) :]) == _PLACE


def place_of(folder: Folder, job: Job) -> Place:
    """Where a job writes: in its folder of the experiment, or where the sweeper that proposed it wants it to."""
    if not has_own_place(job):
        return Place(job.id, folder.join("jobs"), str(job.id), folder.job(job.id))
    number, *texts = (override.partition("=")[2] for override in job.overrides[-len(_PLACE) :])
    if not number.isdecimal() or len(number) > _MOST_DIGITS:
        raise JobRefused(f"job {job.id} of {folder.path} has {number!r} as its number among the jobs of its sweeper")
    return Place(int(number), *map(_unquoted, texts))


def variables_of(folder: Folder, recipe: Recipe, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables by which a program finds its modules in the copy of its code; none without one.

    The places that were copied are no longer searched: what is new there is not of the launch.
    """
    if recipe.code is None:
        return {}
    copied = [os.path.normpath(folder.join(recipe.code.path, place)) for place in recipe.code.imports]
    originals = {os.path.normpath(os.path.join(recipe.code.root, place)) for place in recipe.code.imports}
    others = [
        place
        for place in environment.get("PYTHONPATH", "").split(os.pathsep)
        if place not in ("", *copied) and os.path.realpath(os.path.join(recipe.entry.cwd, place)) not in originals
    ]
    return {"PYTHONPATH": os.pathsep.join([*copied, *others])}


def job_command(folder: Folder, job: Job, recipe: Recipe) -> list[str]:
    """The arguments that run a job of a sweep, to be started in the directory of `entry_of`."""
    entry = entry_of(folder, recipe)
    program = [entry.python, *entry.flags]
    if recipe.task_pickle:
        program += ["-m", "experiment_manager.hydra.pickled_task", folder.join(recipe.task_pickle)]
    else:
        program += [*entry.target, *entry.app_arguments]
    return [
        *program,
        *_hydra_flags(folder, recipe),
        *recipe.hydra_overrides,
        *job.overrides,
        *_placement(folder, job, recipe),
    ]


def runner_command(folder: Folder, job: Job, runner: Sequence[str]) -> list[str]:
    """The arguments that run a job of a Python experiment; `runner` are the words of a command that takes them."""
    return [
        *(*runner, "--job-id", str(job.id)),
        *("--experiment-path", folder.parent, "--experiment-name", folder.name),
    ]


def runner_here(folder: Folder, runner: Sequence[str] | None) -> list[str] | None:
    """The words of a runner as they are for the experiment where it lies now: a pickle that lies in it goes along when
    it is moved."""
    if not runner:
        return None
    *words, last = runner
    pickle = folder.join("tasks", os.path.basename(last))
    is_ours = tuple(words[1:]) == PICKLED_RUNNER and is_file(pickle)
    return [*words, pickle if is_ours else last]


def missing_file(runner: Sequence[str]) -> str | None:
    """The file that holds a runner, a script or a pickle, where it is not there; None where it is, or none is known."""
    python, *words = runner
    if python != sys.executable or not words:
        return None
    path = words[-1] if words[:-1] == [*PICKLED_RUNNER] else words[0]
    return None if path.startswith("-") or is_file(path) else path


def pasteable(arguments: Iterable[str], cwd: str, variables: Mapping[str, str] | None = None) -> str:
    """A line for a shell that does the same."""
    settings = "".join(f"{name}={_word(value)} " for name, value in (variables or {}).items())
    return f"cd {_word(cwd)} && {settings}{' '.join(map(_word, arguments))}"


def _word(text: str) -> str:
    """One word of a shell, in double quotes where single ones would be hard to read.

    >>> print(_word("a b"), _word("dir='/x y'"), _word("'$HOME'"))
    'a b' "dir='/x y'" ''"'"'$HOME'"'"''
    """
    import shlex

    return f'"{text}"' if "'" in text and _SPECIAL_IN_DOUBLE_QUOTES.isdisjoint(text) else shlex.quote(text)


def _hydra_flags(folder: Folder, recipe: Recipe) -> list[str]:
    """Hydra's own flags, which have to come before all overrides."""
    flags = []
    for provider, flag in (("main", "-cp"), ("command-line", "-cd")):
        flags += [
            item for source in recipe.sources if source.provider == provider for item in (flag, _at(folder, source))
        ]
    return [*flags, "-cn", recipe.config_name] if recipe.config_name else flags


def placed_in(directory: str) -> str:
    """The override that puts a job into its directory, by which a process also knows that its run is that job."""
    return f"hydra.run.dir={quoted(directory)}"


def _placement(folder: Folder, job: Job, recipe: Recipe) -> list[str]:
    """What puts the job into its directory, as a plain run, whatever the program's own configuration says."""
    place = place_of(folder, job)
    overrides = [
        "hydra.mode=RUN",
        placed_in(place.directory),
        f"hydra.job.num={place.number}",
    ]
    if recipe.task_pickle and "${" not in recipe.job_name:  # else it was set where the job finds it, too
        overrides.append(f"hydra.job.name={quoted(recipe.job_name)}")
    searched = [
        quoted(f"file://{_at(folder, source)}" if source.frozen else source.path)
        for source in recipe.sources
        if source.provider == "searchpath"
    ]
    return [*overrides, f"hydra.searchpath=[{','.join(searched)}]"] if searched else overrides


def _at(folder: Folder, source: Source) -> str:
    return os.path.join(folder.path, source.path) if source.frozen else source.path
