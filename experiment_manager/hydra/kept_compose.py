"""What Hydra composes of the files alone is kept in memory: for the jobs of a sweep that is planned, and for copies of
this process, jobs that are forked.

Hydra composes in two steps. From the sources and the chosen groups it makes a configuration, and then sets in it what
the other overrides say. The first step takes most of the time and has the same answer for all jobs that choose the same
groups. It is done with Hydra's own code, once; whoever would ask the same has the answer at once. Everything else, from
the other overrides on, is Hydra's work for each job.

An answer is kept only where nothing can change it: no defaults list asks a resolver, and, for copies, whose program may
bring anything, the sources are Hydra's own, or frozen, and Hydra has warned of nothing. Who has put anything into the
ConfigStore since, or has other sources or another version base, has it composed anew.
"""

import copy
import dataclasses
import gc
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from hydra import version
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode

from experiment_manager.hydra import private_names

_FLAGS: Final = ("-cp", "-cd", "-cn")
"""Hydra's own flags before the overrides of a job: see `command`."""

_MOST: Final = 50
"""So many choices of groups at most: who makes more is not in a hurry."""

_RESOLVER: Final = re.compile(r"\$\{[^}]*:")
_OWN: Final = ("hydra", "pkg", "hydra.conf")


class _Source(NamedTuple):
    provider: str
    scheme: str
    path: str
    kind: type


class _Asked(NamedTuple):
    """All that decides what Hydra makes of the sources."""

    config_name: str | None
    options: tuple[bool, bool]
    groups: str
    sources: tuple["_Source", ...]
    is_modern: bool | None


class _Answer(NamedTuple):
    defaults: Any  # Hydra's list of what is merged, in order, and the choices that were made
    config: Any
    store: Mapping[str, object]

    def is_of_this_store(self) -> bool:
        """Whether the ConfigStore holds what it did."""
        now = _nodes_of_store()
        return now.keys() == self.store.keys() and all(now[path] is node for path, node in self.store.items())

    def for_these(self, overrides: Any) -> Any:
        """Hydra's list where these are the overrides, of which it has those that set values."""
        return dataclasses.replace(self.defaults, config_overrides=overrides.config_overrides)


class ComposedOnce:
    """The answers that one process has got, each of which it gets again as a copy."""

    def __init__(self) -> None:
        self._answers: dict[_Asked, _Answer] = {}

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Inside, Hydra composes; where the same was asked before, it gets the answer."""
        create_list, overrides_of = private_names.get("create_defaults_list")
        _, compose_all = private_names.composers()
        asked: list[tuple[_Asked, Any]] = []
        found: list[_Answer] = []

        def create(**given: Any) -> Any:
            overrides = overrides_of(given["repo"], given["overrides_list"])
            question = _asked(overrides, **given)
            answer = self._answers.get(question)
            if answer is not None and answer.is_of_this_store():
                found.append(answer)
                return answer.for_these(overrides)
            defaults = create_list(**given)
            asked.append((question, defaults))
            return defaults

        def compose(loader: Any, defaults: Any, repo: Any) -> Any:
            if found and defaults is found[-1].defaults.defaults:
                return copy.deepcopy(found.pop().config)
            config = compose_all(loader, defaults=defaults, repo=repo)
            question, made = asked.pop()
            if len(self._answers) < _MOST and made.defaults is defaults and not _asks_resolvers(repo):
                self._answers[question] = _Answer(made, copy.deepcopy(config), _nodes_of_store())
            return config

        with private_names.composing_by(create, compose):
            yield


class _Composed(BaseException):
    """The first step is done; nothing has changed its answer yet."""


class KeptCompositions:
    """The answers for copies of this process, each of which a copy can have once: Hydra changes what it gets."""

    def __init__(self, frozen: str) -> None:
        """`frozen` is the folder of sources that stay as they are."""
        self._frozen = frozen
        self._answers: dict[_Asked, _Answer] = {}
        self._setting: set[str] = set()  # keys of overrides that only set values, as they were typed
        self._seen: set[tuple[str, ...]] = set()
        self._handed_out: _Answer | None = None
        self._create, self._overrides_of = private_names.get("create_defaults_list")

    def __len__(self) -> int:
        """How many answers may still be handed out."""
        return len(self._answers)

    def keep(self, arguments: Sequence[str]) -> None:
        """The answer for a job with such arguments is kept, if it may be. Raises what Hydra raises."""
        flags, overrides = dict[str, str](), [*arguments]
        while overrides and overrides[0] in _FLAGS:
            flag, value, *overrides = overrides
            flags[flag] = value
        if any(item.startswith("-") for item in overrides):
            return
        path = private_names.search_path(flags.get("-cp"))
        if (directory := flags.get("-cd")) is not None:
            path.prepend("command-line", f"file://{os.path.abspath(directory)}", SearchPathQuery(provider="schema"))
        with _as_new(), self._recording():
            private_names.loader_of(path).load_configuration(flags.get("-cn"), overrides, run_mode=RunMode.RUN)
        self._seen.add(self._choosing(arguments))

    def keep_also(self, arguments: Sequence[str]) -> None:
        """The same, at once where a job before has chosen the same groups, or where nothing could be kept before."""
        if not self._answers or len(self._seen) >= _MOST or (choosing := self._choosing(arguments)) in self._seen:
            return
        self._seen.add(choosing)
        with suppress(Exception):  # the job will tell
            self.keep(arguments)
        gc.freeze()  # as all that jobs share

    def _choosing(self, arguments: Sequence[str]) -> tuple[str, ...]:
        return tuple([item for item in arguments if item.partition("=")[0] not in self._setting])

    @contextmanager
    def _recording(self) -> Iterator[None]:
        asked: list[tuple[_Asked, Any]] = []

        def create(**given: Any) -> Any:
            question = _asked(self._overrides_of(given["repo"], given["overrides_list"]), **given)
            defaults = self._create(**given)
            asked.append((question, defaults))
            return defaults

        def compose(loader: Any, defaults: Any, repo: Any) -> Any:
            question, made = asked[-1]
            config = compose_all(loader, defaults=defaults, repo=repo)
            if not told and self._are_lasting(question.sources) and not _asks_resolvers(repo):
                self._answers[question] = _Answer(made, config, _nodes_of_store())
                self._setting |= {str(one.input_line).partition("=")[0] for one in made.config_overrides}
            raise _Composed

        _, compose_all = private_names.composers()
        with warnings.catch_warnings(record=True) as told, private_names.composing_by(create, compose):
            warnings.simplefilter("always")
            with suppress(_Composed):
                yield

    def _are_lasting(self, sources: Sequence["_Source"]) -> bool:
        return all(
            one[:3] == _OWN or one.scheme == "structured" or one.path.startswith(self._frozen + os.sep)
            for one in sources
        )

    def hand_out(self) -> None:
        """From now on Hydra gets what was kept, where it asks the same, and composes all else as ever."""
        _, compose_all = private_names.composers()

        def create(**given: Any) -> Any:
            if not self._answers:
                return self._create(**given)
            overrides = self._overrides_of(given["repo"], given["overrides_list"])
            question = _asked(overrides, **given)
            answer = self._answers.get(question)
            if answer is None or not answer.is_of_this_store():
                return self._create(**given)
            self._handed_out = self._answers.pop(question)
            return answer.for_these(overrides)

        def compose(loader: Any, defaults: Any, repo: Any) -> Any:
            answer, self._handed_out = self._handed_out, None
            if answer is not None and defaults is answer.defaults.defaults:
                return answer.config
            return compose_all(loader, defaults=defaults, repo=repo)

        private_names.compose_by(create, compose)


def _asked(overrides: Any, **given: Any) -> _Asked:
    appended = [vars(item) for item in overrides.append_group_defaults]
    sources = (_Source(one.provider, one.scheme(), one.path, type(one)) for one in given["repo"].get_sources())
    at_least = getattr(version, "base_at_least", None)
    return _Asked(
        given["config_name"],
        (given["prepend_hydra"], given["skip_missing"]),
        repr((overrides.override_choices, appended, overrides.deletions)),
        tuple(sources),
        at_least and at_least("1.2"),
    )


@contextmanager
def _as_new() -> Iterator[None]:
    """Inside, the version base is that of a program which asks for the present one; outside it is what it was."""
    base = version.VersionBase.instance()
    before = base.version_base
    if hasattr(version, "base_at_least"):  # 1.4 knows one base
        version.setbase(None)
    try:
        yield
    finally:
        base.version_base = before


def _asks_resolvers(repo: Any) -> bool:
    """Whether a defaults list that was read names a resolver, whose answer may be another one in a job."""
    read = [found for found in repo.cache.values() if found is not None]
    return any(_RESOLVER.search(repr(vars(default))) for found in read for default in found.defaults_list)


def _nodes_of_store() -> dict[str, object]:
    """What the ConfigStore holds, by its path."""
    found: dict[str, object] = {}
    waiting: list[tuple[str, Any]] = [("", ConfigStore.instance().repo)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict):
            waiting += [(f"{path}/{name}", inner) for name, inner in node.items()]
        else:
            found[path] = node
    return found
