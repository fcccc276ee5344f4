"""What we ask of Hydra while planning a sweep: which points there are, and which configuration each one has.

Each of Hydra's configs is read once for a whole sweep: Hydra itself reads and parses all of them for every job.
"""

import copy
import importlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from typing import Any, Final, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Override,
    OverrideType,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
)
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from experiment_manager.errors import ConfigurationDrifted, FreezeError, GridError
from experiment_manager.execution.command import PLACED_BY_US, quoted
from experiment_manager.hydra import private_names
from experiment_manager.hydra.frozen_config import Origin
from experiment_manager.hydra.kept_compose import ComposedOnce
from experiment_manager.model import codec, configurations
from experiment_manager.model.grid import MOST_JOBS, Axis, Setting, require_few
from experiment_manager.model.records import Job
from experiment_manager.store.files import is_folder, unreadable
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest
from experiment_manager.text import tell

ID: Final = "<job id>"
"""Stands for `hydra.job.id` in the place of a job that has no id yet."""


def task_configuration(config: DictConfig) -> codec.Encoded:
    """The tagged form of what the task function gets: all but the `hydra` node, interpolations as they are written."""
    keys: list[Any] = [key for key in config if key != "hydra"]
    task = OmegaConf.masked_copy(config, keys)
    return codec.encode(OmegaConf.to_container(task, resolve=False))


def as_written(config: DictConfig, kind: str) -> list[str]:
    """The overrides of a sweep, Hydra's own (`hydra`) or the program's (`task`), as they were typed.

    One that holds `${...}` stands for something else in each job, for something that is not known here, or for a
    secret: it is read when a job is composed, and nowhere else.
    """
    items: Any = OmegaConf.to_container(config.hydra.overrides[kind], resolve=False)
    return [str(item) for item in items]


def fingerprint(encoded: codec.Encoded) -> str:
    """The hash by which a changed configuration is noticed."""
    return codec.digest(encoded)


def require_submitted(manifest: Manifest, job: Job, config: DictConfig) -> None:
    """Nothing happens when `config` is what was submitted for the job; on drift the recipe decides.

    Raises ConfigurationDrifted, or says the same on standard error and goes on (`on_drift=warn`).
    """
    composed = task_configuration(config)
    if job.recipe is None or fingerprint(composed) == job.fingerprint:
        return
    submitted = manifest.encoded_configuration(job.id)
    if codec.is_alike(submitted, composed):
        return
    recipe = manifest.recipe(job.recipe)
    changes = configurations.describe(configurations.compare(submitted, composed))
    unfrozen = [source.path for source in recipe.sources if not source.frozen]
    origin = f"{', '.join(unfrozen)} could not be frozen, or it" if unfrozen else "Its YAML is frozen, so this"
    message = (
        f"job {job.id} composes another configuration here than when it was submitted: {changes}. {origin} comes from "
        "code (a structured config, a resolver) or the environment; put it back, or sweep again with "
        "hydra.sweeper.on_drift=warn"
    )
    if recipe.on_drift != "warn":
        raise ConfigurationDrifted(message)
    tell(f"warning: {message}")


@contextmanager
def _reading() -> Iterator[None]:
    """Inside, YAML that a disk does not give is a FreezeError: nothing of ours was written. That a file is not there,
    Hydra says with an OSError of its own, which nobody is to take for one of the system."""
    try:
        yield
    except MissingConfigException as error:
        raise ConfigCompositionException(str(error)) from error
    except OSError as error:
        raise FreezeError(unreadable(error.filename or "the YAML of the program", error)) from error


class Composer:
    """Hydra, for one sweep: `master` is the configuration of the sweep itself."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = reading_once(loader)
        self._first_steps = ComposedOnce() if private_names.has(*private_names.OF_FIRST_STEP) else None
        self._master = master
        self._parser = OverridesParser.create(config_loader=loader)
        self._hydra_overrides = as_written(master, "hydra")
        self._groups: dict[str, bool] = {}
        self._settings = _settings_of(master)
        self._is_primary_lost = False  # with what it says of the sweep: see `lost_values`
        self.unused: dict[str, str] = {}
        """Settings of the sweep that a job's own files make, too late, and the overrides of the first such job."""

    @property
    def config_name(self) -> str | None:
        """The name of the primary config, without the .yaml that may be typed after it."""
        name = self.typed_config_name
        return None if name is None else name.removesuffix(".yaml") or name

    @property
    def typed_config_name(self) -> str | None:
        name = self._master.hydra.job.config_name
        return None if name is None else str(name)

    @property
    def job_name(self) -> str:
        """The name of the program as it was set; one that holds `${...}` is another one in each job."""
        job: Any = OmegaConf.to_container(self._master.hydra.job, resolve=False)
        return str(job["name"])

    def axes(self, params: Mapping[str, Any], arguments: Iterable[str]) -> list[Axis]:
        """One axis per key, the parameters before the command line; of two settings of a key the last one wins, but
        where Hydra makes something of both."""
        return [self.axis(given) for given in self.parsed(params, arguments)]

    def parsed(self, params: Mapping[str, Any], arguments: Iterable[str]) -> list["Given"]:
        """What is set, in the order in which Hydra applies it. Raises Hydra's own errors.

        As in Hydra's own sweeper, an override takes the place of an earlier one with the same key and the same + or ++.
        Of two that differ in these, the later one does so where that comes to the same.
        """
        lines = [f"{key}={'null' if value is None else value}" for key, value in params.items()]
        by_element: dict[str, Given] = {}
        for place, override in enumerate(self._parser.parse_overrides([*lines, *arguments])):
            element = override.get_key_element()
            prefix = element.removesuffix(name_of(override)).removeprefix("~")
            by_element[element] = Given(override, prefix, place)
        found: list[Given] = []
        for given in by_element.values():
            same = [place for place, other in enumerate(found) if other.name == given.name]
            if same and self._replaces(given, found[same[-1]], found[same[-1] + 1 :]):
                # `+x=1` and then `x=2,3` sweeps a key that has to be added
                found[same[-1]] = given._replace(prefix=given.prefix or found[same[-1]].prefix)
            else:
                found.append(given)
        times = Counter(given.name for given in found)
        return [given._replace(is_one_of_several=times[given.name] > 1) for given in found]

    def _replaces(self, later: "Given", earlier: "Given", between: Iterable["Given"]) -> bool:
        """Whether it is as if the earlier one had not been there: both choose a group, or both set a value or list, and
        none between them sets or deletes a part of it. A mapping is merged into what is there, and since Hydra 1.4 what
        a list is extended by is added."""
        both = [_values(one.override) for one in (later, earlier)]
        groups = [self.is_group(later.override.key_or_group, values[0]) for values in both if values]
        if any(groups):
            return all(groups)
        if any(isinstance(value, dict) for values in both for value in values):
            return False
        is_list, was_list = ({isinstance(value, list) for value in values} for values in both)
        if earlier.prefix == "+" and True in was_list and False in is_list:  # + sets a list also where something is
            return False
        if not {later.override.type, earlier.override.type} <= _SET_OR_DELETE:
            return False
        return not any(_is_beside(later.override, other.override) for other in between)

    def axis(self, given: "Given") -> Axis:
        """The values of one override, one by one. Raises GridError where they cannot be listed."""
        override, prefix, name = given.override, given.prefix, given.name
        if override.is_delete():
            return Axis((name,), ((Setting(name, str(override.input_line), None, True, False),),))
        key = given.key
        is_ordered = given.is_one_of_several or (
            (override.is_add() or override.is_force_add()) and self.is_group(override.key_or_group, override.value())
        )
        if not override.is_sweep_override():
            text = prefix + str(override.input_line).lstrip("+")
            return Axis((key,), ((Setting(key, text, override.value(), is_ordered),),))
        if not override.is_discrete_sweep():
            raise GridError(
                f"'{override.input_line}' has no list of values to go through; write choices or a range, or use a "
                "sweeper that draws values from intervals"
            )
        steps = []
        for element in elements(override):
            text = f"{prefix}{name}={self._value_text(element)}"
            steps.append((Setting(key, text, _unquoted(element), is_ordered),))
        return Axis((key,), tuple(steps))

    def _value_text(self, element: Any) -> str:
        """The text of one swept value. Hydra's own rendering of text loses quotes, those of `choice('it\\'s')`, so what
        does not read back as itself is quoted."""
        text = str(Transformer.str(element))
        if type(element) is not str:
            return text
        try:
            (read_back,) = self._parser.parse_overrides([f"key={text}"])
            if read_back.value() == element:
                return text
        except HydraException:
            pass
        return QuotedString(text=element, quote=Quote.single).with_quotes()

    def is_group(self, key: str, value: Any) -> bool:
        """Whether Hydra takes an override of that key and value for the choice of a config group, asked of Hydra."""
        if key not in self._groups:
            self._groups[key] = self._group_exists(key)
        return self._groups[key] and not isinstance(value, dict)

    def _chooses_group(self, setting: Setting) -> bool:
        key = setting.key.lstrip("+").partition("@")[0]
        return not key.startswith("~") and self.is_group(key, setting.value)

    def _group_exists(self, key: str) -> bool:
        if self._repository is not None:
            return bool(self._repository.group_exists(key))
        above, _, name = key.rpartition("/")
        groups = self._loader.get_group_options(above, ObjectType.GROUP, self.config_name, self._hydra_overrides)
        return name in groups

    @cached_property
    def _repository(self) -> Any:
        """Where Hydra looks for the configs of this sweep; None where only a list of them can be had."""
        return private_names.repository(self._loader, self.config_name, self._hydra_overrides)

    def composed(self, overrides: Iterable[str]) -> DictConfig:
        """The whole configuration of one job, as Hydra composes it. Raises Hydra's own errors, and FreezeError where a
        disk does not give its YAML."""
        listed = list(overrides)
        with _reading(), nullcontext() if self._first_steps is None else self._first_steps.repeating():
            config: DictConfig = self._loader.load_sweep_config(self._master, listed)
        found = _settings_of(config)
        if found != self._settings and not self._is_primary_lost:
            for key in found:
                if found[key] != self._settings.get(key):
                    self.unused.setdefault(key, " ".join(listed))
        return config

    @cached_property
    def aliases(self) -> dict[str, str]:
        """The keys that `hydra.aliases` of Hydra 1.4 has other names for, by those names."""
        found = getattr(self._loader, "get_override_aliases", None)
        targets = {} if found is None else found(self.config_name).targets
        return {name: target for name, target in targets.items() if "=" not in target}

    def lost_values(self, settings: Iterable[Setting]) -> str | None:
        """The sentence for a primary configuration whose own values Hydra leaves out, because a group is appended to a
        defaults list that holds nothing but `override` entries, and no `_self_`; None for any other."""
        added = next((item.text for item in settings if item.is_ordered and self._chooses_group(item)), None)
        if added is None or self.config_name is None or self._repository is None:
            return None
        loaded = self._repository.load_config(self.config_name)
        if loaded is None or not loaded.defaults_list or not all(item.is_override() for item in loaded.defaults_list):
            return None
        self._is_primary_lost = True
        keys = ", ".join(str(key) for key in loaded.config)
        return keys and (
            f"warning: with {added} Hydra leaves out the values of {self.config_name} itself ({keys}), since its "
            "defaults list has only `override` entries and no `_self_`; write `- _self_` into that list"
        )

    def chosen_directories(self, written: Mapping[str, Any]) -> list[str]:
        """Of `hydra.sweep`, as it was written, what is not Hydra's own default: `hydra.sweep.dir=...`."""
        usual = self._usual_directories()
        return [f"hydra.sweep.{key}={value}" for key, value in written.items() if value not in (usual.get(key), "???")]

    def replaced_launcher(self) -> tuple[str, dict[str, Any]] | None:
        """The launcher that the program's YAML chooses, with its options, where the command line has chosen another;
        None where it has not, and where that YAML cannot be composed for itself."""
        own = [text for text in self._hydra_overrides if not text.startswith(("hydra/launcher=", "hydra.launcher."))]
        if not any(text.startswith("hydra/launcher=") for text in self._hydra_overrides):
            return None
        try:
            found = self._loader.load_configuration(self.config_name, own, RunMode.MULTIRUN)
        except (HydraException, OmegaConfBaseException):
            return None
        options: Any = OmegaConf.to_container(found.hydra.launcher, resolve=False)
        return str(found.hydra.runtime.choices.get("hydra/launcher")), options

    def _usual_directories(self) -> Any:
        """`hydra.sweep` of a program that says nothing of it."""
        if self._repository is None:
            bare = self._loader.load_configuration(None, [], RunMode.MULTIRUN)
            return OmegaConf.to_container(bare.hydra.sweep, resolve=False)
        default = self._repository.load_config("hydra/output/default")
        usual: Any = {} if default is None else OmegaConf.to_container(default.config, resolve=False)
        return usual.get("sweep", {})

    def configuration(self, overrides: Iterable[str]) -> codec.Encoded:
        """The tagged configuration of one job, without Hydra's own part. Raises Hydra's own errors."""
        return task_configuration(self.composed(overrides))

    def placed(self, folder: Folder, job_id: int, overrides: Sequence[str]) -> list[str]:
        """The overrides of a job for a launcher that is not ours: its directory follows its id, not its position."""
        return [
            *overrides,
            f"hydra.sweep.dir={quoted(folder.join('jobs'))}",
            f"hydra.sweep.subdir={quoted(str(job_id))}",
        ]

    def place(self, config: DictConfig, number: int) -> tuple[str, str]:
        """`hydra.sweep.dir` and `hydra.sweep.subdir` of a composed job, as a launcher of Hydra's finds them.

        The id of the job is not known yet: ID stands for it.
        """
        with read_write(config.hydra.job), open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = ID, number
        with _hydra_config(config):  # for interpolations by `${hydra:...}`
            return str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)

    @contextmanager
    def in_job(self, job_id: int) -> Iterator[None]:
        """Inside, `${hydra:...}` stands for what it would be in a job, as far as that is known before one runs."""
        config = copy.deepcopy(self._master)
        job, runtime = config.hydra.job, config.hydra.runtime
        with read_write(job), open_dict(job), read_write(runtime), open_dict(runtime):
            job.id, job.num = str(job_id), job_id
            runtime.output_dir = os.path.join(str(config.hydra.sweep.dir), str(job_id))
        with _hydra_config(config):
            yield

    def hydra_overrides(self) -> tuple[str, ...]:
        """Hydra's own overrides of this sweep, in order, without those that place the jobs."""
        parsed = self._parser.parse_overrides(self._hydra_overrides)
        return tuple(str(override.input_line) for override in parsed if override.key_or_group not in PLACED_BY_US)

    def environment(self, overrides: Iterable[str]) -> dict[str, Any]:
        """The variables that Hydra sets for jobs by such overrides, whatever the + before each."""
        found: dict[str, Any] = {}
        for text in overrides:
            with suppress(HydraException):  # another version of Hydra may have taken it
                (override,) = self._parser.parse_overrides([text])
                key, value = override.key_or_group, None if override.is_delete() else override.value()
                if key == ENVIRONMENT:
                    found = {} if override.is_delete() else found | (value if isinstance(value, dict) else {})
                elif key.startswith(f"{ENVIRONMENT}."):
                    found[key.removeprefix(f"{ENVIRONMENT}.")] = value
        return {name: value for name, value in found.items() if value is not None}

    def now(self) -> dict[str, str]:
        """What `${now:pattern}` has answered in this sweep so far."""
        cache = OmegaConf.get_cache(self._master).get("now", {})
        return {_pattern(key): str(value) for key, value in cache.items()}

    def origins(self) -> list[Origin]:
        """Where the user's YAML comes from, in the order in which Hydra looks; not Hydra's own and the plugins'."""
        found = []
        for source in self._master.hydra.runtime.config_sources:
            provider = {"main": "main", "command-line": "command-line"}.get(source.provider)
            if source.provider.startswith("hydra.searchpath"):
                provider = "searchpath"
            if provider is None or source.schema == "structured":
                continue
            is_file = source.schema == "file"
            directory = os.path.abspath(source.path) if is_file else None
            if source.schema == "pkg" and provider == "main":  # started with -m: the folder of a package
                directory = _package_directory(source.path)
            if directory is not None and not is_folder(directory):
                directory = None
            path = f"file://{os.path.abspath(source.path)}" if is_file else f"{source.schema}://{source.path}"
            found.append(Origin(provider, path, directory))
        return found


class Given(NamedTuple):
    """One override of a sweep, as it counts."""

    override: Override
    prefix: str  # what Hydra gets before the key: + where it, or an earlier one that it replaces, adds it
    place: int  # among all that were given
    is_one_of_several: bool = False  # of the same key, all of which Hydra gets

    @property
    def name(self) -> str:
        """Its key, with ~ where it is deleted."""
        return f"{'~' * self.override.is_delete()}{name_of(self.override)}"

    @property
    def key(self) -> str:
        """The name of the variable: that of its key, and of one of several, as ++db beside db, with what is before."""
        return f"{self.prefix * self.is_one_of_several}{self.name}"


def name_of(override: Override) -> str:
    """The key of an override, with its package: `db@source`."""
    return override.key_or_group + (f"@{override.package}" if override.package else "")


def elements(override: Override) -> list[Any]:
    """The values that an override goes through. Raises GridError where there are none."""
    value = override.value()
    if isinstance(value, RangeSweep) and not value.step:
        raise GridError(f"'{override.input_line}' goes from value to value by 0; give the range another step")
    found = list(itertools.islice(override.sweep_iterator(), MOST_JOBS + 1))
    require_few(len(found), f"'{override.input_line}'")
    if not found:
        raise GridError(f"'{override.input_line}' has no values; give it at least one")
    return found


def _values(override: Override) -> list[Any]:
    """Its values; a range or an interval stands for the numbers in it."""
    value = override.value()
    return list(value.list) if isinstance(value, ChoiceSweep) else [value]


def _is_beside(one: Override, other: Override) -> bool:
    """Whether one key is the other, or lies below it."""
    keys = [re.split(r"[.\[\]]+", override.key_or_group.rstrip("]")) for override in (one, other)]
    shared = min(map(len, keys))
    return keys[0][:shared] == keys[1][:shared]


@contextmanager
def _hydra_config(config: DictConfig) -> Iterator[None]:
    """Inside, that configuration is Hydra's own."""
    current = HydraConfig.instance()
    before = current.cfg
    try:
        current.set_config(config)
        yield
    finally:
        current.cfg = before


def _unquoted(element: Any) -> Any:
    """One swept value without the quotes that it was typed with."""
    if isinstance(element, list):
        return [_unquoted(item) for item in element]
    if isinstance(element, dict):
        return {_unquoted(key): _unquoted(item) for key, item in element.items()}
    return element.text if isinstance(element, QuotedString) else element


def _settings_of(config: DictConfig) -> dict[str, Any]:
    """What says how a sweep is planned and launched, as it is written, by dotted keys."""
    found: dict[str, Any] = {}
    for part in ("sweeper", "launcher"):
        node = config.hydra[part]
        values: Any = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_dict(node) else {}
        found |= {f"hydra.{part}.{key}": value for key, value in values.items()}
    return found


def _pattern(key: Any) -> str:
    return str(key[0]) if isinstance(key, tuple) else str(key)


def _package_directory(path: str) -> str | None:
    """The folder behind `pkg://package/conf`; None when it is not a plain folder."""
    package, _, rest = path.replace(".", "/").partition("/")
    try:
        module = importlib.import_module(package) if package else None
    except ImportError:
        return None
    for root in getattr(module, "__path__", [os.getcwd()]):
        directory = os.path.join(root, rest)
        if is_folder(directory):
            return directory
    return None


ENVIRONMENT: Final = "hydra.job.env_set"
_NEVER: Final = object()
_SET_OR_DELETE: Final = {OverrideType.CHANGE, OverrideType.ADD, OverrideType.FORCE_ADD, OverrideType.DEL}


class ReadOnce:
    """A repository that remembers what it has read, and hands out copies, since Hydra changes what it gets.

    Hydra copies the repository for each composition, and may give the copy other places to read from: a copy shares
    what has been read for as long as the places are the same.
    """

    def __init__(self, delegate: Any) -> None:
        self._delegate = delegate
        self._read: dict[str, Any] = {}
        self._elsewhere: dict[tuple[tuple[Any, Any], ...], tuple[Any, dict[str, Any]]] = {}

    def __deepcopy__(self, _: dict[int, Any]) -> "ReadOnce":
        other = ReadOnce(self._delegate)
        other._read, other._elsewhere = self._read, self._elsewhere
        return other

    def load_config(self, config_path: str) -> Any:
        """What is read from a path; None where there is nothing."""
        found = self._read.get(config_path, _NEVER)
        if found is _NEVER:
            found = self._read[config_path] = self._delegate.load_config(config_path=config_path)
        return copy.deepcopy(found)

    def initialize_sources(self, config_search_path: Any) -> None:
        """From now on it reads from these places."""
        places = tuple((place.provider, place.path) for place in config_search_path.get_path())
        if places not in self._elsewhere:
            delegate = copy.deepcopy(self._delegate)
            delegate.initialize_sources(config_search_path)
            self._elsewhere[places] = (delegate, {})
        self._delegate, self._read = self._elsewhere[places]

    def __getattr__(self, name: str) -> Any:
        """Whatever else a repository answers."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._delegate, name)


def reading_once(loader: ConfigLoader) -> Any:
    """A loader that composes the same and reads each config once; the given one stays as it is. Where nobody can tell
    what it reads from, it is the given one."""
    if not private_names.has("ConfigLoaderImpl.repository"):
        return loader
    other: Any = copy.copy(loader)
    other.repository = ReadOnce(other.repository)
    return other
