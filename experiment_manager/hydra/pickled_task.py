"""Jobs whose function no command line can be asked for: it travels as one pickle and is called through Hydra here.

So it is for sweeps from a notebook, through hydra-zen's `launch`, or from a script with several `@hydra.main`.

    python -m experiment_manager.hydra.pickled_task <file> -cp <frozen YAML> -cn config  overrides...
"""

import os
import pickle
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from experiment_manager.errors import FreezeError
from experiment_manager.execution.pickled_runner import Pickled, trusted
from experiment_manager.trust import trusted_places

_OF_HYDRA: Final = ("now", "hydra", "hydra_override_dirname", "python_version")
"""Resolvers that Hydra registers, here as there."""


def pickled(task: Any, script: str | None = None) -> Pickled:
    """The pickle of a task function and of Hydra's state, with configurations that only exist in memory.

    `script`: the copy that the function is from. Raises FreezeError for a function that holds something which cannot be
    pickled.
    """
    import cloudpickle
    from hydra.core.config_store import ConfigStore

    paths = [path for path in sys.path if path]  # modules beside the program have to be found before it is unpickled
    main = sys.modules["__main__"]
    was = getattr(main, "__file__", None)
    try:
        if script is not None:
            main.__file__ = script  # which a pickled function takes along
        state = (task, ConfigStore.instance().repo, _version_base(), _resolvers(), _allowed())
        data = pickle.dumps(paths) + cloudpickle.dumps(state)
    except Exception as error:  # what objects of the program raise, too
        raise FreezeError(
            f"the task function cannot be pickled ({type(error).__name__}: {error}), and no command line starts it: "
            "keep what it holds out of its closure and of the module, or sweep from a script with one @hydra.main"
        ) from error
    finally:
        if script is not None:
            main.__file__ = was
    return Pickled.of(data)


def _version_base() -> str | None:
    from hydra import version

    base: Any = version.getbase()  # text since Hydra 1.4, before that a version
    return base if base is None or isinstance(base, str) else f"{base.major}.{base.minor}"


def _allowed() -> Any:
    """The targets that Hydra may call, as the program told `hydra.main`; None: it told none, or Hydra is before 1.4."""
    from experiment_manager.hydra import private_names  # which no job needs

    ask = private_names.get("_get_active_execution_whitelist")
    return None if ask is None else ask()


def _resolvers() -> dict[str, bytes]:
    """The resolvers that the program has registered with OmegaConf, each as a pickle, since one may be broken where it
    is not needed. One that cannot be pickled is left out: a job that needs it fails, naming it."""
    import cloudpickle
    from hydra.core.singleton import Singleton

    found = {}
    for name, resolver in Singleton.get_state()["omegaconf_resolvers"].items():
        if not name.startswith("oc.") and name not in _OF_HYDRA:
            with suppress(Exception):  # whatever the user's objects raise
                found[name] = cloudpickle.dumps(resolver)
    return found


def _register(resolvers: Mapping[str, bytes]) -> None:
    from hydra.core.singleton import Singleton

    state = Singleton.get_state()
    for name, data in resolvers.items():
        with suppress(Exception):
            state["omegaconf_resolvers"].setdefault(name, pickle.loads(data))
    Singleton.set_state(state)


def main(argv: list[str]) -> None:
    """Runs the pickled function as the `@hydra.main` of a script would be."""
    import hydra
    from hydra.core.config_store import ConfigStore

    path, *arguments = argv
    with trusted(path) as file:
        sys.path += trusted_places(place for place in pickle.load(file) if place not in sys.path)
        task, repository, version_base, *more = pickle.load(file)  # older ones have no more
    resolvers, allowed = more if len(more) == 2 else (*more, None) if more else ({}, None)
    _register(resolvers)
    ConfigStore.instance().repo.update(repository)
    sys.argv = [path, *arguments]
    os.environ["HYDRA_MAIN_MODULE"] = "experiment_manager.hydra.pickled_task"  # so that Hydra looks for no source file
    permission = {} if allowed is None else {"execution_whitelist": allowed}
    hydra.main(version_base=version_base, config_path=None, **permission)(task)()


if __name__ == "__main__":
    main(sys.argv[1:])
