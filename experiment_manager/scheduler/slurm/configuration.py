"""`SLURM`, what people write in Python and keep in a file: the options of SLURM jobs and what runs them."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from experiment_manager.errors import OptionsError
from experiment_manager.scheduler.slurm.options import (
    FIELDS,
    RUNNERS,
    SHORT_NAMES,
    as_mapping,
    checked_value,
    memory_text,
    record,
    time_text,
)
from experiment_manager.store.documents import content
from experiment_manager.store.files import appearing, write_json
from experiment_manager.text import one_line


class SLURM:
    """What a job asks of SLURM, and what runs it: `SLURM(n_gpus=1, memory="4G", time="10:00:00", ...)`.

    Takes every option of `SlurmOptions`, and the short names n_gpus (per node), n_cpus (per process), n_nodes, memory
    (per node: MB, or with a unit) and time (a number is minutes). What runs a job is either `python_runner`, the path
    of a script, or `job_runner`, a whole command as text or words. Raises OptionsError for what cannot be meant.
    """

    __slots__ = ("job_runner", "options", "python_runner")

    scheduler = "slurm"

    def __init__(self, **options: Any) -> None:
        self._set(options, where="SLURM")

    def _set(self, values: Mapping[Any, Any], *, where: str) -> None:
        given: dict[Any, tuple[Any, Any]] = {}
        for called, value in values.items():
            other, before = given.get(SHORT_NAMES.get(called, called), (called, None))
            if value is not None and before is not None:
                raise OptionsError(f"{where}: {other} and {called} are two names of one option; write one of them")
            if before is None:
                given[SHORT_NAMES.get(called, called)] = (called, value)
        runners = {name: given.pop(name, (name, None)) for name in RUNNERS}
        if all(value is not None for _, value in runners.values()):
            raise OptionsError(f"{where}: python_runner and job_runner both say what runs a job; write one of them")
        self.options = record(given, where=where, names=(*SHORT_NAMES, *RUNNERS, *FIELDS))
        self.python_runner: str | None = checked_value("python_runner", runners["python_runner"], where)
        self.job_runner: tuple[str, ...] | None = checked_value("job_runner", runners["job_runner"], where) or None

    def to_mapping(self) -> dict[str, Any]:
        """What is set, under the short names where there are any, ready for JSON: `SLURM(**mapping)` is equal."""
        rest = as_mapping(self.options)
        found = {short: rest.pop(name) for short, name in SHORT_NAMES.items() if name in rest}
        if "time" in found:
            found["time"] = time_text(found["time"])
        if "memory" in found:
            amount = found["memory"] * 1024
            if amount.is_integer():
                found["memory"] = memory_text(int(amount))
            else:  # a memory would be rounded up
                found["mem_gb"] = found.pop("memory")
        command = self.job_runner and list(self.job_runner)
        runners = {"python_runner": self.python_runner, "job_runner": command}
        return {**found, **rest, **{name: value for name, value in runners.items() if value}}

    def __eq__(self, other: object) -> bool:
        return self.to_mapping() == other.to_mapping() if isinstance(other, SLURM) else NotImplemented

    def __repr__(self) -> str:
        return f"SLURM({', '.join(f'{name}={value!r}' for name, value in self.to_mapping().items())})"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SLURM":
        """The options in a file that `save`, the original library or a person wrote, as JSON or YAML.

        Raises OptionsError, which names the path, when it is missing, unreadable, or holds what cannot be meant.
        """
        where = os.fspath(path)
        values = _read(where)
        if not isinstance(values, Mapping):
            raise OptionsError(f"{where} holds no mapping of options; write one like {{n_gpus: 1, memory: 4G}}")
        found = cls.__new__(cls)
        found._set(values, where=where)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """The file holds these options: as YAML when it ends on .yaml or .yml, else as JSON. It appears whole."""
        where = os.path.abspath(path)
        write = _write_yaml if where.lower().endswith(_YAML) else write_json
        try:
            write(where, self.to_mapping())
        except OSError as error:
            raise OptionsError(f"{where} cannot be written ({error.strerror}); name a file in your folders") from error


_YAML: Final = (".yaml", ".yml")


def _read(path: str) -> Any:
    """What a file holds: JSON or YAML by its ending, else whichever of them it is."""
    from json import loads

    kind = "JSON" if path.lower().endswith(".json") else "YAML" if path.lower().endswith(_YAML) else "JSON or YAML"
    try:
        text = content(path).decode("utf-8-sig")
        if kind == "JSON or YAML":
            with suppress(ValueError):
                return loads(text)
        return loads(text) if kind == "JSON" else _read_yaml(text)
    except OSError as error:
        raise OptionsError(f"{path} cannot be read ({error.strerror}); SLURM(...).save writes such a file") from error
    except (ValueError, RecursionError) as error:
        raise OptionsError(
            f"{path} is no {kind} ({one_line(str(error))}); SLURM(...).save writes such a file"
        ) from error


def _write_yaml(path: str, value: Any) -> None:
    import yaml

    with appearing(path) as temporary, open(temporary, "x", encoding="utf-8") as file:
        yaml.safe_dump(value, file, sort_keys=False, allow_unicode=True)


def _read_yaml(text: str) -> Any:
    """YAML as people mean it: 10:00:00 is text and not 36,000, 0123 is not 83, 2024-01-01 is no date."""
    import re

    import yaml

    tag = "tag:yaml.org,2002:"
    kept = (f"{tag}bool", f"{tag}null", f"{tag}merge")
    safe = yaml.SafeLoader.yaml_implicit_resolvers.items()

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {first: [pair for pair in pairs if pair[0] in kept] for first, pairs in safe}  # noqa: RUF012

    number = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?\Z")
    Loader.add_implicit_resolver(f"{tag}float", number, list("-+.0123456789"))
    Loader.add_implicit_resolver(f"{tag}int", re.compile(r"[-+]?(0|[1-9][0-9]*)\Z"), list("-+0123456789"))
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
