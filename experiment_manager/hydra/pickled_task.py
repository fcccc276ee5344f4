"""Jobs whose function no command line can be asked for: it travels as one pickle and is called through Hydra here.

So it is for sweeps from a notebook, through hydra-zen's `launch`, or from a script with several `@hydra.main`.

    python -m experiment_manager.hydra.pickled_task <file> -cp <frozen YAML> -cn config  overrides...
"""

import os
import pickle
import sys
from hashlib import blake2b
from typing import Any

from experiment_manager.disk.files import appearing
from experiment_manager.disk.folder import Folder


def freeze_task(folder: Folder, task: Any, script: str | None = None) -> str:
    """The function and Hydra's state, with configurations that only exist in memory, are in the folder; returns the
    path, relative to it. The same pickle is stored once. `script`: the copy that the function is from."""
    import cloudpickle
    from hydra.core.config_store import ConfigStore

    paths = [path for path in sys.path if path]  # modules beside the program have to be found before it is unpickled
    main = sys.modules["__main__"]
    was = getattr(main, "__file__", None)
    try:
        if script is not None:
            main.__file__ = script  # which a pickled function takes along
        data = pickle.dumps(paths) + cloudpickle.dumps((task, ConfigStore.instance().repo, _version_base()))
    finally:
        if script is not None:
            main.__file__ = was
    relative = os.path.join("tasks", f"{blake2b(data, digest_size=8).hexdigest()}.pkl")
    path = folder.join(relative)
    if not os.path.exists(path):
        folder.make(os.path.dirname(path))
        with appearing(path) as temporary, open(temporary, "xb") as file:
            file.write(data)
    return relative


def _version_base() -> str | None:
    from hydra import version

    base: Any = version.getbase()  # text since Hydra 1.4, before that a version
    return base if base is None or isinstance(base, str) else f"{base.major}.{base.minor}"


def main(argv: list[str]) -> None:
    """Runs the pickled function as the `@hydra.main` of a script would be."""
    import hydra
    from hydra.core.config_store import ConfigStore

    path, *arguments = argv
    with open(path, "rb") as file:
        sys.path += [place for place in pickle.load(file) if place not in sys.path]
        task, repository, version_base = pickle.load(file)
    ConfigStore.instance().repo.update(repository)
    sys.argv = [path, *arguments]
    os.environ["HYDRA_MAIN_MODULE"] = "experiment_manager.hydra.pickled_task"  # so that Hydra looks for no source file
    hydra.main(version_base=version_base, config_path=None)(task)()


if __name__ == "__main__":
    main(sys.argv[1:])
