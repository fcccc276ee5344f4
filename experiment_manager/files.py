"""Files that appear whole or not at all. Nothing here knows what the files mean."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


def temporary_name(path: str) -> str:
    """A hidden name beside `path` that no other process uses, on whatever host."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.uname().nodename}.{os.getpid()}.tmp")


@contextmanager
def appearing(path: str) -> Iterator[str]:
    """Yields a temporary name to write to; afterwards the finished file bears the name `path`, on disk for good."""
    temporary = temporary_name(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(os.path.dirname(path))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def sync(path: str) -> None:
    """What was written to a file, or renamed in a folder, survives a crash of the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str, value: Any) -> None:
    """The file holds `value` as JSON, readable for people."""
    with appearing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=False)
        file.write("\n")


def read_json(path: str) -> Any:
    """What `write_json` wrote. Raises FileNotFoundError, or ValueError when it is no JSON."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_optional(path: str) -> dict[str, Any]:
    """The object in a JSON file of ours; empty when there is none or it is not readable."""
    try:
        body = read_json(path)
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
