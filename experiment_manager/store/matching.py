"""Which job of an experiment a configuration is of, where variables do not tell: the one with the same fingerprint, or
with the same configuration but for the names of the program's enums.

A fingerprint has the name of an enum's class in it, which is of `__main__` in the program itself, and of a module
wherever that is imported: configurations that have enums are read and compared where fingerprints differ.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

from experiment_manager.model import codec, policy
from experiment_manager.store.layout import Folder
from experiment_manager.store.manifest import Manifest


class Matching:
    """Compares configurations with those of jobs, in a manifest that is opened once, for the first that is read. To be
    used in `with`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def __enter__(self) -> "Matching":
        return self

    def __exit__(self, *_: object) -> None:
        if "_manifest" in vars(self):
            self._manifest.close()
            del self._manifest

    @cached_property
    def _manifest(self) -> Manifest:
        return Manifest(self._folder)

    def match(
        self, known: Sequence[tuple[int, str | None]], fingerprint: str, configuration: Callable[[], codec.Encoded]
    ) -> policy.Match:
        """Which job of one identity a configuration with that fingerprint is: see `policy.match`."""
        encoded = None

        def is_alike(job_id: int) -> bool:
            nonlocal encoded
            encoded = configuration() if encoded is None else encoded
            return not self.has_changed(job_id, encoded)

        return policy.match(known, fingerprint, is_alike)

    def has_changed(self, job_id: int, encoded: codec.Encoded) -> bool:
        """Whether a job has another configuration than this one, of which only the fingerprint is known to differ."""
        has_enum = next(codec.enum_paths(encoded), None) is not None
        return not has_enum or not codec.is_alike(self._manifest.encoded_configuration(job_id), encoded)
