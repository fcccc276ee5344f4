"""The names of `typing` in what every task imports, without what they cost there.

A task's start is 30 ms. Of these, `typing` would take 2 ms, and each of its named tuples 0.1 ms, for it compiles their
annotations, which only a type checker reads. Here the names do nothing at runtime, and a type checker sees those of
`typing`. A module with a `NamedTuple` of this kind postpones its annotations (`from __future__ import annotations`).
"""

from collections import namedtuple

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import IO as IO
    from typing import Any as Any
    from typing import ClassVar as ClassVar
    from typing import Final as Final
    from typing import NamedTuple as NamedTuple
    from typing import NewType as NewType
    from typing import NoReturn as NoReturn
    from typing import TypeGuard as TypeGuard
    from typing import TypeVar as TypeVar
else:

    class _Unseen:
        """What stands in an annotation: `Any`, `Final[int]`, `Item | None`."""

        def __class_getitem__(cls, _):
            return cls

    Any = object
    IO = ClassVar = Final = NoReturn = TypeGuard = _Unseen

    def TypeVar(_name):  # noqa: N802, named as in typing
        return _Unseen

    def NewType(name, supertype):  # noqa: N802
        def same(value):
            return value

        same.__name__ = same.__qualname__ = name
        same.__supertype__ = supertype
        return same

    class _MakesNamedTuples(type):
        """A class of this kind is what `collections.namedtuple` makes of its annotations, and has its methods."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body.get("__annotations__", {})
            made = namedtuple(
                name, fields, defaults=[body[field] for field in fields if field in body], module=body["__module__"]
            )
            made.__new__.__annotations__ = dict(fields)
            for key, value in body.items():
                if key not in fields:
                    setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_MakesNamedTuples):
        """Made as `typing.NamedTuple` is: fields with annotations, defaults, methods."""
