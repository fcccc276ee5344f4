"""The one encoding of values: whatever goes in comes back as it was, and what cannot go in is named."""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_manager.errors import UnstorableValue
from experiment_manager.model import codec
from tests.conftest import examples


class Activation(Enum):
    RELU = 1
    TANH = "tanh"


class Level(IntEnum):
    LOW = 1


class Kind(StrEnum):
    ACTOR = "actor"


class Access(Flag):
    READ = 1
    WRITE = 2


class Spot:
    """A path-like object whose `str` is not its path, as that of `os.DirEntry`."""

    def __fspath__(self) -> str:
        return "/data/spot"


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63, max_value=2**4000)
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from([Activation.RELU, Activation.TANH, Level.LOW, Kind.ACTOR])
    | st.sampled_from([Path("a/b"), Path("/"), Path(), Path("ä 'x' #?%")])
)
KEYS = (
    st.text()
    | st.sampled_from(["$float", "$dict", "$tuple", "$", "$x", "", "a.b"])
    | st.integers()
    | st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.binary()
    | st.tuples(st.integers(), st.text())
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A form of a value in which Python's `==` tells apart all that the encoding must: types, signs of zero, NaN."""
    if isinstance(value, Enum):
        return "enum", type(value), value.name
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else (math.copysign(1, value), value)
    if isinstance(value, (list, tuple)):
        return type(value), [typed(item) for item in value]
    if isinstance(value, Mapping):
        return "mapping", [(typed(key), typed(item)) for key, item in value.items()]
    return type(value), value


def shuffled(value: Any) -> Any:
    """The same value with the keys of every mapping in the opposite order."""
    if isinstance(value, (list, tuple)):
        return type(value)(shuffled(item) for item in value)
    if isinstance(value, Mapping):
        return {key: shuffled(item) for key, item in reversed(list(value.items()))}
    return value


@examples(120)
@given(VALUES)
def test_every_value_comes_back(value: Any) -> None:
    """Decoding the text of the encoded value gives the value back: types, order of keys, NaN, -0.0 and all."""
    assert typed(value) == typed(codec.decode(codec.loads(codec.dumps(codec.encode(value)))))


@examples(50)
@given(VALUES)
def test_text_is_strict_json(value: Any) -> None:
    """The text is JSON of the standard (no NaN), can be UTF-8, and gives back the same tagged form."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    encoded = codec.encode(value)
    text = codec.dumps(encoded).encode().decode()
    assert typed(encoded) == typed(json.loads(text, parse_constant=refuse))


@examples(60)
@given(VALUES)
def test_canonical_ignores_key_order(value: Any) -> None:
    """Two values that differ in the order of keys alone, at any depth, have one canonical text and one digest."""
    one, other = codec.encode(value), codec.encode(shuffled(value))
    assert codec.canonical(one) == codec.canonical(other)
    assert codec.digest(one) == codec.digest(other)


@examples(80)
@given(VALUES, VALUES)
def test_canonical_is_equal_only_for_equal_values(one: Any, other: Any) -> None:
    """Different values have different canonical texts, and the canonical text decodes to the value."""
    text = codec.canonical(codec.encode(one))
    back = codec.decode(codec.loads(text))
    assert text == codec.canonical(codec.encode(back))
    if text == codec.canonical(codec.encode(other)):
        assert typed(back) == typed(codec.decode(codec.loads(codec.canonical(codec.encode(other)))))


def test_canonical_keeps_types() -> None:
    """Values that Python or a careless reader takes for one another have texts of their own."""
    alike = [
        1,
        1.0,
        True,
        "1",
        "True",
        None,
        "None",
        0,
        0.0,
        -0.0,
        False,
        "",
        [],
        (),
        {},
        b"",
        Path("1"),
        b"1",
        Level.LOW,
    ]
    alike += [math.nan, "nan", math.inf, -math.inf, Kind.ACTOR, "actor", [1], (1,), [[1]], {"a": 1}, {"$a": 1}, {1: 1}]
    alike += [{"1": 1}, {None: 1}, {"None": 1}, {True: 1}, {"$tuple": [1]}, {"$float": "nan"}, {"$dict": [["a", 1]]}]
    texts = [codec.canonical(codec.encode(value)) for value in alike]
    assert len(alike) == len(set(texts))
    assert len(alike) == len({codec.digest(codec.encode(value)) for value in alike})


@pytest.mark.parametrize("value", [1, "a", {"b": [1.5, None]}])
def test_digest_is_32_hexadecimal_characters(value: Any) -> None:
    """The digest stands for the canonical text and has one shape."""
    digest = codec.digest(codec.encode(value))
    assert 32 == len(digest)
    assert set() == set(digest) - set("0123456789abcdef")


def test_enum_of_unloaded_class_comes_back_as_its_name() -> None:
    """Nothing is imported for an enum: where its class is not loaded, its name is what comes back."""
    assert "RELU" == codec.decode({"$enum": ["a_module_that_nobody_loaded.Activation", "RELU"]})
    assert "GONE" == codec.decode({"$enum": [f"{__name__}.Activation", "GONE"]})
    assert Activation.RELU is codec.decode(codec.encode(Activation.RELU))


def test_combined_flag_comes_back() -> None:
    """A Flag is an enum, too: a combination of its members comes back as itself."""
    value = Access.READ | Access.WRITE
    assert value == codec.decode(codec.loads(codec.dumps(codec.encode(value))))


def test_kin_of_plain_values_are_stored_as_plain_values() -> None:
    """Subclasses of text, numbers and mappings, and scalars of NumPy, become the plain value that they stand for."""
    numpy = pytest.importorskip("numpy")

    class Name(str):
        __slots__ = ()

    for value, plain in (
        (Name("a"), "a"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (bytearray(b"x"), b"x"),
        (numpy.float64(0.5), 0.5),
        (numpy.float32(0.5), 0.5),
        (numpy.int64(3), 3),
        (numpy.bool_(True), True),
        (numpy.str_("a"), "a"),
        (numpy.array(7), 7),
    ):
        assert typed(plain) == typed(codec.decode(codec.encode(value))), value


def test_path_like_object_is_stored_as_its_path() -> None:
    """What counts of a path-like object is its path (`os.fspath`), not how it prints."""
    assert Path("/data/spot") == codec.decode(codec.encode(Spot()))


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"nn": {"activation": {1, 2}}}, "nn.activation"),
        ({"nn": [0, {"x": object()}]}, "nn[1].x"),
        ({"shape": (1, lambda: 0)}, "shape[1]"),
        ({"a": {3: {"b": frozenset()}}}, "a.3.b"),
        ({"a": {"$k": 1j}}, "a.$k"),
        ({"name": "x\ud800"}, "name"),
        ({"folder": {"sub": Path("bad\udcff")}}, "folder.sub"),
        ({"outer": {"\ud800": 1}}, "outer"),
        ({"outer": {("\ud800",): 1}}, "outer"),
        ({"many": [[], [0, 1, 2, range(3)]]}, "many[1][3]"),
    ],
)
def test_refused_value_names_its_place(value: Any, place: str) -> None:
    """What cannot be stored is refused in a sentence with the place where it stands."""
    with pytest.raises(UnstorableValue) as refused:
        codec.encode(value)
    assert place in str(refused.value)


@pytest.mark.parametrize("value", [{1}, object(), "\udcff", type, 1j])
def test_refused_value_without_a_place_is_the_value(value: Any) -> None:
    """A value that stands nowhere is called the value."""
    with pytest.raises(UnstorableValue, match="the value"):
        codec.encode(value)


def test_array_is_refused() -> None:
    """An array is no scalar: it is refused and named, never cut down to one of its numbers."""
    numpy = pytest.importorskip("numpy")
    with pytest.raises(UnstorableValue, match=r"weights is a numpy\.ndarray"):
        codec.encode({"weights": numpy.zeros(1)})


def test_value_that_holds_itself_is_refused() -> None:
    """A list that is its own element has no end, so it is refused like anything else that cannot be stored."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UnstorableValue):
        codec.encode({"nn": endless})


def test_integer_too_long_for_a_text_is_refused_with_its_place() -> None:
    """Python writes no integer of more than 4,300 digits; such a one is refused with its place, not by `json`."""
    with pytest.raises(UnstorableValue, match="big"):
        codec.dumps(codec.encode({"big": 10**5000}))


@given(VALUES)
@examples(50)
def test_as_json_every_value_is_a_document(value: Any) -> None:
    """Whatever can be stored is JSON that reads back as it is, with no key lost, and each number that is not finite is
    null in one place and named by another."""
    lost: dict[str, str] = {}
    found = codec.as_json(value, lost)
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert set(lost.values()) <= {"nan", "inf", "-inf"}
    if isinstance(value, Mapping):
        assert len(value) == len(found)
