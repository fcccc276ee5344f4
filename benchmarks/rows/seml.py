"""SEML, which keeps experiments in a MongoDB server and so cannot be measured without one."""

import shutil
from collections.abc import Iterator

from benchmarks.place import Place
from benchmarks.table import Line


def lines(_: Place) -> Iterator[Line]:
    server = "a mongod is on the path, but no row has been written for it" if shutil.which("mongod") else "none is here"
    yield Line(
        what="adding the jobs of a sweep", peer="SEML", why_not=f"SEML needs a MongoDB server to add jobs to: {server}"
    )
