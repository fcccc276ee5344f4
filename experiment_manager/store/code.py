"""The code of a launch: which commit and packages it is made with, enough to have the same again, and copies of it, so
that editing it later reaches no job that waits.

    launches/0003/packages.txt, code.patch
    code/<hash>/

To tell what a launch is made with never asks and never fails it. In a copy, what git tracks is as it is on disk now,
and so are Python files that it does not know yet. Whatever else lies beside them (data, compiled modules) is linked: in
the copy a program finds what it finds in the original. The hash is one of the contents: the same code is copied once,
however many sweeps use it. The job finds the modules of the copy first, and none of the original.
"""

import importlib.machinery
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from experiment_manager.errors import FreezeError
from experiment_manager.model.records import Code
from experiment_manager.store.documents import content
from experiment_manager.store.files import (
    appearing,
    appearing_folder,
    below,
    exists,
    is_file,
    is_folder,
    is_link,
    looked,
)
from experiment_manager.store.layout import Folder, writing
from experiment_manager.text import tell

MOST_BYTES: Final = 20_000_000
"""Of a patch; what is larger is data, and not kept."""

_MASKED_HEAD: Final = b"In %s, *** stands for what looked like a secret: put it back after `git apply`.\n\n"
"""Of a patch; git goes on from the first file."""

_INSTALLED: Final = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(?:-[^-]+)?\.(?:dist|egg)-info\Z")

LARGEST_BYTES: Final = 256 * 1024 * 1024
MOST_LINKS: Final = 1000
"""From one directory: more are results or data, which are not found by a path relative to the program."""

OURS: Final = ("experiment_manager", "hydra_plugins")
"""Packages that belong to no program."""

MOST_UNTRACKED: Final = 20
"""Of the names that a launch keeps of files that git does not know."""
_MOST_LOOKED_AT: Final = 1000

LEAVE_OUT: Final = "or leave hydra.launcher.snapshot out"

_GIT_LIMIT_S: Final = 60.0
_RUNS_NOTHING: Final = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""Of the programs that the configuration of a repository can name, which may be anybody's."""

_NEVER_LINKED: Final = frozenset({".git", "__pycache__"})
_SILENT: Final = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
_OF_ANOTHER_REPOSITORY: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR")
"""Set inside of git's hooks, where the repository around the directory is meant nevertheless."""


def commit(cwd: str | None = None) -> dict[str, Any]:
    """`git_commit` and `git_dirty` around a folder, the working directory by default; None where git cannot tell."""
    name = ask_git("rev-parse", "HEAD", cwd=cwd)
    status = ask_git("status", "--porcelain", "--untracked-files=no", cwd=cwd)
    return {
        "git_commit": None if name is None else name.decode().strip(),
        "git_dirty": None if status is None else bool(status.strip()),
    }


def untracked(place: str, name: str | None) -> list[str] | None:
    """The Python files that a program in that folder may import from there, and that git neither knows nor ignores, by
    their paths in the repository, some of them where there are many; None where git cannot tell, or has another commit
    there than that of this `name`.

    Git is asked about names alone that may be imported: it looks into no folder of data.
    """
    if name is None or ask_git("rev-parse", "HEAD", cwd=place) != f"{name}\n".encode():
        return None
    names = _importable(place)
    if not names:
        return []
    said = ask_git("ls-files", "-z", "--others", "--exclude-standard", "--full-name", "--", *names, cwd=place)
    if said is None:
        return None
    return sorted(os.fsdecode(name) for name in said.split(b"\0") if name.endswith(b".py"))[:MOST_UNTRACKED]


def _importable(place: str) -> list[str]:
    """What git takes for the Python files in a folder, and for those in packages there, with an __init__.py or not."""
    found = []
    with suppress(OSError), os.scandir(place) as entries:
        for entry in islice(entries, _MOST_LOOKED_AT):
            if entry.name.endswith(".py"):
                found.append(f":(literal){entry.name}")
            elif entry.name.isidentifier() and entry.name not in _NEVER_LINKED and _has_modules(entry.path):
                found.append(f":(glob){entry.name}/**/*.py")
    return found


def _has_modules(place: str) -> bool:
    """Whether Python files lie in a folder, as far as the first of its files tell."""
    with suppress(OSError), os.scandir(place) as entries:
        return any(entry.name.endswith(".py") for entry in islice(entries, _MOST_LOOKED_AT))
    return False


def write_patch(path: str, cwd: str | None = None) -> None:
    """The file holds what differs from the commit around a folder, in tracked files, as `git apply` takes it, and `***`
    for secrets, which its head tells of; no file where git cannot tell, or where that is larger than MOST_BYTES."""
    from experiment_manager.model.secrets import masked_patch  # few processes write one

    patch = ask_git("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "HEAD", cwd=cwd)
    if patch is None or not 0 < len(patch) <= MOST_BYTES:
        return
    patch, n_masked = masked_patch(patch)
    if n_masked:
        lines = "a line" if n_masked == 1 else f"{n_masked} lines"
        tell(f"{os.path.basename(path)}, which keeps your changes, has *** for what looks like a secret in {lines}")
        patch = _MASKED_HEAD % lines.encode() + patch
    with suppress(OSError), appearing(path, for_good=False) as temporary, open(temporary, "xb") as file:
        file.write(patch)


def write_packages(path: str) -> None:
    """The file holds the installed packages as pip reads them: `pip install -r packages.txt`."""
    with (
        suppress(OSError),
        appearing(path, for_good=False) as temporary,
        open(temporary, "x", encoding="utf-8") as file,
    ):
        file.writelines(f"{name}=={version}\n" for name, version in packages().items())


def read_packages(path: str) -> dict[str, str]:
    """The packages that `write_packages` wrote, with their versions. Raises OSError; ValueError where it is no text."""
    pairs = [line.partition("==") for line in looked(lambda: content(path)).decode().splitlines()]
    return {name: version for name, _, version in pairs}


def packages() -> dict[str, str]:
    """The installed packages that this process finds, with their versions: by the names of their folders, since to read
    the metadata of a hundred packages would take longer than planning a thousand jobs."""
    found: dict[str, str] = {}
    for place in sys.path:
        try:
            names = sorted(os.listdir(place or os.curdir))
        except OSError:
            continue
        for name in names:
            match = _INSTALLED.match(name) if name.endswith("-info") else None
            if match is not None:
                found.setdefault(match["name"].replace("_", "-").lower(), match["version"])
    return dict(sorted(found.items()))


class _File(NamedTuple):
    """A file of the copy; the content of a link is what it points to."""

    mode: int
    content: bytes


class CodeCopy(NamedTuple):
    """The code that was read from a repository, and what becomes of it in an experiment once it is written."""

    code: Code
    files: Mapping[str, _File]
    places: frozenset[str]  # the directories that have copied files

    def write(self, folder: Folder) -> None:
        """The copy is in the folder, with links to what lies beside its files; says what of the code is not in it."""
        root, target = self.code.root, folder.join(self.code.path)
        with writing(folder.path):
            if not is_folder(target):
                folder.make(folder.join("code"))
                _publish(target, self.files)
            for place in sorted(self.places):
                _link_the_rest(os.path.join(root, place), os.path.join(target, place))
        _tell_what_is_not_copied(root, target, self.places)


def copy_code(folder: Folder, program: str, cwd: str, script: str | None) -> Code:
    """The copy of the repository of `program` is in the folder: see `read_code`. Raises FreezeError."""
    copy = read_code(folder, program, cwd, script)
    copy.write(folder)
    return copy.code


def read_code(folder: Folder, program: str, cwd: str, script: str | None) -> CodeCopy:
    """The copy that the folder is to have of the repository of `program`, the file that holds the task function.

    `cwd` and `script` are where the program was started, and the file that Python was given, if any. Raises FreezeError
    where git does not know what belongs to the program, or it is too much.
    """
    if os.pathsep in folder.path:
        raise FreezeError(f"{folder.path} holds {os.pathsep!r}, which PYTHONPATH cannot name; rename it, {LEAVE_OUT}")
    program = os.path.realpath(program)
    root = _root(program)
    files = _contents(
        root, _names(root, os.path.realpath(folder.parent), os.path.realpath(folder.path), folder.manifest)
    )
    if exists(program) and below(root, program) not in files:
        raise FreezeError(
            f"{program} is ignored by git, or new and no .py file, so that no snapshot of {root} has it; take it off "
            f"the ignored files and `git add` it, {LEAVE_OUT}"
        )
    places = {""}.union(*(_parents(name) for name in files))
    imports = tuple(searched(root, places, files))
    here = below(root, cwd)
    if any("\ud800" <= letter <= "\udfff" for letter in "".join((root, here or "", *imports))):
        raise FreezeError(f"a folder of {root} has a name that is not valid Unicode; rename it, {LEAVE_OUT}")
    there = None if script is None else below(root, script)
    code = Code(
        path=os.path.join("code", _digest(files)),
        root=root,
        cwd=here if here in places else None,
        script=there if there in files else None,
        imports=imports,
    )
    return CodeCopy(code, files, frozenset(places))


def _root(program: str) -> str:
    top = ask_git("rev-parse", "--show-toplevel", cwd=os.path.dirname(program), limit_s=_GIT_LIMIT_S)
    if top is None:
        raise FreezeError(
            f"{program} is in no git repository that can be read, and only git tells what belongs to a program: make "
            f"one with `git init` and `git add`, {LEAVE_OUT}"
        )
    return os.path.realpath(os.fsdecode(top.removesuffix(b"\n")))


def _names(root: str, experiments: str, experiment: str, manifest: str) -> Iterator[str]:
    """The files to copy; not those of experiments, which may lie in the repository, also beside code."""

    def is_left_out(path: str) -> bool:
        name = path[len(experiments) + 1 :].split(os.sep)[0] if path.startswith(experiments + os.sep) else ""
        if name and name not in known:
            known[name] = is_file(os.path.join(experiments, name, os.path.basename(manifest)))
        return known.get(name, False)

    known = {os.path.basename(experiment): True}
    tracked = ask_git("ls-files", "-z", "--recurse-submodules", cwd=root, limit_s=_GIT_LIMIT_S)
    new = ask_git("ls-files", "-z", "--others", "--exclude-standard", "--", "*.py", cwd=root, limit_s=_GIT_LIMIT_S)
    if tracked is None or new is None:
        raise FreezeError(f"git cannot list the files of {root}; try `git ls-files` there, {LEAVE_OUT}")
    for name in sorted(filter(None, {*tracked.split(b"\0"), *new.split(b"\0")})):
        relative = os.fsdecode(name)
        if not is_left_out(os.path.join(root, relative)):
            yield relative


def _contents(root: str, names: Iterator[str]) -> dict[str, _File]:
    """The contents of the files; one that is tracked and has been removed is left out, and so is a folder.

    A link to Python code outside of the repository is code, too. Raises FolderError for what cannot be looked at.
    """
    files: dict[str, _File] = {}
    budget = LARGEST_BYTES
    for name in names:
        path = os.path.join(root, name)
        is_code_elsewhere = path.endswith(".py") and is_file(path) and below(root, path) is None
        if is_link(path) and not is_code_elsewhere:
            files[name] = _File(0, os.fsencode(_target(root, path)))
        elif is_file(path):
            about = looked(partial(os.stat, path))
            budget -= about.st_size
            if budget < 0:
                raise FreezeError(
                    f"git tracks more than {LARGEST_BYTES >> 20} MiB in {root}, at {name}, too much to be copied for "
                    f"a sweep; keep data out of the repository, {LEAVE_OUT}"
                )
            mode = 0o555 if about.st_mode & 0o100 else 0o444
            files[name] = _File(mode, looked(partial(content, path, LARGEST_BYTES)))
    return files


def _target(root: str, link: str) -> str:
    """The target of a link of the copy: the same place in the copy, or one outside of it by its whole path."""
    target = os.path.join(os.path.dirname(link), os.readlink(link))
    inside = below(root, target)
    if inside is None:
        return target
    if os.path.normpath(target).startswith(root + os.sep) and not os.path.isabs(os.readlink(link)):
        return os.readlink(link)
    return os.path.relpath(os.path.join(root, inside), os.path.realpath(os.path.dirname(link)))


def _parents(name: str) -> Iterator[str]:
    while name := os.path.dirname(name):
        yield name


def _digest(files: Mapping[str, _File]) -> str:
    state = blake2b(digest_size=8)
    for name, file in files.items():
        for part in (os.fsencode(name), str(file.mode).encode(), file.content):
            state.update(len(part).to_bytes(8, "big") + part)
    return state.hexdigest()


def _publish(target: str, files: Mapping[str, _File]) -> None:
    """The whole copy appears under its name at once; its files are not to be edited.

    They are not synced one by one: a thousand files would take seconds.
    """
    with appearing_folder(target) as temporary:
        _write(temporary, files)


def _write(temporary: str, files: Mapping[str, _File]) -> None:
    for name, file in files.items():
        path = os.path.join(temporary, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not file.mode:
            os.symlink(file.content, os.fsencode(path))
            continue
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode), "wb") as out:  # as the umask allows
            out.write(file.content)


def _link_the_rest(original: str, copy: str) -> None:
    """All that lies beside copied files and was not copied is linked from the original."""
    names = {*os.listdir(original)}.difference(os.listdir(copy), _NEVER_LINKED)
    if len(names) > MOST_LINKS:
        tell(
            f"snapshot: {original} holds {len(names)} files that git does not track, too many to be linked; the jobs "
            "do not find them by a relative path"
        )
        return
    for name in names:
        with suppress(FileExistsError):  # somebody else copies the same
            os.symlink(os.path.join(original, name), os.path.join(copy, name))


def _tell_what_is_not_copied(root: str, copy: str, places: Set[str]) -> None:
    """Says which code is not in the copy, nor where packages are installed: somebody may edit it."""
    installed = [os.path.realpath(place) + os.sep for place in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    live: dict[str, str] = {}
    for name, place in origins():
        real = os.path.realpath(place)
        is_installed = (real + os.sep).startswith(tuple(installed)) or real.endswith(("-packages", ".zip"))
        if name not in OURS and not is_installed and below(root, real) not in places:
            live[name] = real
    for place in places:
        with os.scandir(os.path.join(copy, place)) as entries:
            for entry in entries:
                is_code = entry.name.endswith(".py") or os.path.isfile(os.path.join(entry.path, "__init__.py"))
                if is_code and entry.is_symlink() and below(os.path.realpath(copy), entry.path) is None:
                    live[entry.name.removesuffix(".py")] = os.path.realpath(entry.path)
    if live:
        listed = ", ".join(f"{name} ({place})" for name, place in sorted(live.items()))
        tell(f"snapshot: not copied, and so as it is when the jobs run: {listed}")


def searched(root: str, places: Set[str], files: Collection[str]) -> list[str]:
    """Where in the copy modules are to be looked for: where this process looks, and where it has found some or would
    find some, also by the import hooks of editable installs.

    `places` and `files` are what was copied, relative to the root. Raises FreezeError, see below.
    """
    found = [below(root, place or os.getcwd()) for place in sys.path]
    found += sorted({below(root, place) for _, place in origins()}, key=str)
    found += sorted({below(root, place) for place in _hooked(root, places, files)}, key=str)
    return [place for place in dict.fromkeys(found) if place is not None and place in places]


def _hooked(root: str, places: Set[str], files: Collection[str]) -> Iterator[str]:
    """The directories of what import hooks find in the repository, which nobody may have imported yet.

    Raises FreezeError for a module that they find by another name than its file has: no directory leads to it.
    """
    usual = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, importlib.machinery.PathFinder)
    names = {part for name in files if name.endswith(".py") for part in name.removesuffix(".py").split(os.sep)}
    for hook in sys.meta_path:
        if hook in usual or not hasattr(hook, "find_spec"):
            continue
        mapping = getattr(sys.modules.get(getattr(hook, "__module__", None) or ""), "MAPPING", None)
        for name, place in mapping.items() if isinstance(mapping, dict) else _asked(hook, sorted(names)):
            path, parts = Path(str(place).removesuffix(".py")), str(name).split(".")
            inside = below(root, str(path))
            if inside not in places and f"{inside}.py" not in files:
                continue
            if list(path.parts[-len(parts) :]) != parts:
                raise FreezeError(
                    f"an import hook finds {name} in {path}, not under its own name, where no snapshot can have it; "
                    f"rename it, {LEAVE_OUT}"
                )
            yield str(path.parents[len(parts) - 1])


def _asked(hook: Any, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The modules of these names that an import hook finds in files, each with its directory, or its file."""
    for name in filter(str.isidentifier, names):
        try:
            spec = hook.find_spec(name, None)
        except Exception:  # whatever a hook does with a name that it does not know
            continue
        origin = getattr(spec, "origin", None)
        if spec is not None and isinstance(origin, str) and is_file(origin):
            yield name, os.path.dirname(origin) if spec.submodule_search_locations else origin


def origins() -> Iterator[tuple[str, str]]:
    """The name of each package and module at the top that was imported from a file, and the directory that it is in."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name or name == "__main__" or not (file or hasattr(module, "__path__")):
            continue
        try:
            packages = [str(place) for place in getattr(module, "__path__", ())]
        except Exception:  # whatever a module calls its path
            continue
        yield from ((name, os.path.dirname(place)) for place in packages or [str(file)])


def live_modules(folder: Folder, code: Code) -> dict[str, str]:
    """The modules of this process that come from the original, though they were copied, each with its file."""
    copy = os.path.realpath(folder.join(code.path))
    elsewhere = tuple(place + os.sep for place in (copy, sys.prefix, sys.base_prefix, sys.exec_prefix))
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or file.startswith(elsewhere) or name.partition(".")[0] in OURS:
            continue
        inside = below(code.root, file)
        if inside and not os.path.realpath(file).startswith(copy + os.sep):
            copied = os.path.join(copy, inside)
            if is_file(copied) and os.path.realpath(copied) == copied:  # and no link
                found[name] = file
    return found


def ask_git(*arguments: str, cwd: str | None = None, limit_s: float = 5.0) -> bytes | None:
    """The answer of git about the repository around a directory, the working directory by default; git never asks back.
    None when it fails, takes too long, or is not there."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    try:
        done = subprocess.run(
            ["git", *_RUNS_NOTHING, *arguments],
            cwd=cwd,
            env={**inherited, **_SILENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
