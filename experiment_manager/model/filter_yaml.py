"""Mappings and lists as people write them into a filter: YAML, whose plain words are those of Hydra's overrides.

`name=no,on,010` sweeps over three texts, so `{name: [no, on, 010]}` names the same three; to YAML 1.1 they are False,
True and 8.
"""

import re
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, Final

from experiment_manager.errors import FilterError
from experiment_manager.text import one_line

_INTEGER: Final = r"(?:0|[1-9](?:_?[0-9])*)"
_FRACTION: Final = r"\.[0-9](?:_?[0-9])*"
_NOT_FINITE: Final = r"\.?[iI][nN][fF]|\.?[nN][aA][nN]"
_EXPONENT: Final = r"[eE][-+]?[0-9](?:_?[0-9])*"
_WORDS: Final = {  # by the tag: the form of the word, as the grammar of Hydra 1.3 has it, and with what it may begin
    "null": ("~|[nN][uU][lL][lL]|", ["~", "n", "N", ""]),
    "bool": ("[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]", list("tTfF")),
    "int": (rf"[-+]?{_INTEGER}", list("-+0123456789")),
    "float": (
        rf"[-+]?(?:{_INTEGER}?{_FRACTION}(?:{_EXPONENT})?|{_INTEGER}\.?{_EXPONENT}|{_INTEGER}\.|{_NOT_FINITE})",
        list("-+0123456789.iInN"),
    ),
}
_PLAIN: Final = re.compile(r"[\w./+](?:[\w./+@=-]| (?=[\w./+]))*\Z", re.ASCII)
"""A text that needs no quotes, unless it is one of these words."""


def read_yaml(text: str) -> Any:
    """The mapping or list that a text stands for. Raises FilterError."""
    import yaml

    try:
        if "*" in text and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("an alias (*) stands for what is written elsewhere, which may be anything; write it out")
        return yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        problem = one_line(str(getattr(error, "problem", None) or getattr(error, "msg", None) or error))
        raise FilterError(
            f"the filter {text!r} is no YAML ({problem}); write {{algorithm: TD3, seed: [1, 2]}}"
        ) from error


def write_yaml(value: Any) -> str:
    """The text, in one line, that `read_yaml` reads as an equal value; what YAML has no word for is text in it.

    >>> write_yaml({"name": ["no", "true", "a, b"], "lr": [1e-07, None, True], "": {"x": "it's"}})
    "{name: [no, 'true', 'a, b'], lr: [1e-07, null, true], '': {x: 'it''s'}}"
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{write_yaml(key)}: {write_yaml(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(write_yaml, value))}]"
    if isinstance(value, Enum):
        return _written_text(value.name)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    return float.__repr__(value) if isinstance(value, float) else _written_text(str(value))


def _written_text(text: str) -> str:
    if _PLAIN.match(text) and not any(re.match(rf"(?:{form})\Z", text) for form, _ in _WORDS.values()):
        return text
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    if letter.isprintable():
        return f"\\{letter}" if letter in '"\\' else letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@cache
def _loader() -> Any:
    """The safe loader with these words, which takes no key twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            found: dict[Any, Any] = {}
            for name, value in node.value:
                key = self.construct_object(name, deep=True)
                if key is None:
                    raise ValueError("a key is null")
                if key in found:
                    raise ValueError(f"the key {key} is there twice")
                found[key] = self.construct_object(value, deep=deep)
            return found

    Loader.yaml_implicit_resolvers = {}
    for tag, (form, first) in _WORDS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{form})\Z"), first)
    return Loader
