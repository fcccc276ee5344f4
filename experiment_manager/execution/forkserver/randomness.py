"""Random numbers in processes that are copies of each other: they must differ, and a seed that was set must count.

`random` is seeded anew in every forked process by Python itself. Of the libraries only what has been imported is asked.
"""

import gc
import random
import sys
from typing import Any, Final, NamedTuple

from experiment_manager.execution.forkserver.learning import is_installed

LIBRARIES: Final = ("numpy.random", "torch")
"""To be imported before anything that may set their seed."""

_UNTOLD_BITS: Final = 96  # an entropy so long is one that numpy has drawn itself


class Randomness(NamedTuple):
    """The state of the generators that a process has from the start."""

    python: object
    numpy: bytes | None
    torch: bytes | None


def state() -> Randomness:
    """Of now."""
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    return Randomness(
        random.getstate(),
        None if numpy is None else _plain(numpy.get_state(legacy=False)),
        None if torch is None else bytes(torch.get_rng_state().numpy().tobytes()),
    )


def _plain(state: dict[str, Any]) -> bytes:
    inner, gauss = state["state"], (state.get("has_gauss"), state.get("gauss"))
    return bytes(inner["key"].tobytes()) + repr((inner["pos"], gauss)).encode() if "key" in inner else b"replaced"


def trouble(before: Randomness) -> str | None:
    """Why copies of this process would not draw the numbers that fresh processes draw; None when they would."""
    now = state()
    for name, old, new in zip(Randomness._fields, before, now, strict=True):
        if old is not None and old != new:
            return f"it has seeded or used the random numbers of {name}"
    if any(_is_unseeded(item) for item in _numpy_generators()):
        return "it has made a random generator without a seed, whose numbers all jobs would share"
    if owner := _owner_of_a_generator():
        return f"{owner} has made a random.Random, whose numbers all jobs may share"
    return None


def _owner_of_a_generator() -> str | None:
    """A module of the user that holds a generator of Python's, none of which tells how it was seeded. Libraries have
    them, too, for names and for waiting."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in sys.stdlib_module_names or is_installed(module):
            continue
        if any(type(item) is random.Random for item in list(getattr(module, "__dict__", {}).values())):
            return name
    return None


def _numpy_generators() -> list[Any]:
    numpy = sys.modules.get("numpy.random")
    if numpy is None:
        return []
    own = numpy.mtrand._rand._bit_generator
    kind = numpy.BitGenerator
    return [item for item in gc.get_objects() if issubclass(type(item), kind) and item is not own]


def _is_unseeded(generator: Any) -> bool:
    entropy = getattr(generator.seed_seq, "entropy", None)
    return isinstance(entropy, int) and entropy.bit_length() > _UNTOLD_BITS


def renew() -> None:
    """The generators start anew, as in a process of its own."""
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    if numpy is not None:
        numpy.seed()
    if torch is not None:
        torch.default_generator.seed()
