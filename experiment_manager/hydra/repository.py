"""Hydra's configs, each read once for a whole sweep: Hydra itself reads and parses all of them for every job."""

import copy
from typing import Any, Final

from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_loader import ConfigLoader

_NEVER: Final = object()


class ReadOnce(IConfigRepository):
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

    def get_schema_source(self) -> Any:
        return self._delegate.get_schema_source()

    def group_exists(self, config_path: str) -> Any:
        return self._delegate.group_exists(config_path=config_path)

    def config_exists(self, config_path: str) -> Any:
        return self._delegate.config_exists(config_path=config_path)

    def get_group_options(self, group_name: str, *arguments: Any, **options: Any) -> Any:
        return self._delegate.get_group_options(group_name, *arguments, **options)

    def get_sources(self) -> Any:
        return self._delegate.get_sources()


def reading_once(loader: ConfigLoader) -> Any:
    """A loader that composes the same and reads each config once; the given one stays as it is."""
    other: Any = copy.copy(loader)
    other.repository = ReadOnce(other.repository)
    return other
