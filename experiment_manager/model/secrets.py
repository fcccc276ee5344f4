"""What looks like a secret among words that are written down for others to read: a password in a command line, a token
in an address. It is told by the name that it is given, by how it begins, or by its place in an address.

Values that a job needs are kept as they are: they are its configuration. Where that has a secret in it,
`${oc.env:NAME}` in its place keeps the secret in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from experiment_manager.typing_names import Any, Final

MASK: Final = "***"

_ALWAYS: Final = re.compile(
    r"(?:.*[._-])?(?:password|passwd|passphrase|secret|credentials?|(?:api|access|secret|private|auth)[_-]?key)\Z",
    re.IGNORECASE,
)
_WHERE_RANDOM: Final = re.compile(r"(?:.*[._-])?(?:token|key|pat|auth)\Z", re.IGNORECASE)
"""Names that people who train language models use for other things, too: `eos_token`, `key`."""

_RANDOM: Final = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9+/=_.~-]{16,}\Z")
_KNOWN: Final = re.compile(
    r"\b(?:gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{15,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16})"
)
"""How those of GitHub, GitLab, Hugging Face, OpenAI, Slack and AWS begin."""

_IN_ADDRESS: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_SETTING: Final = re.compile(r"([+~-]*[\w./@:-]+?)=(.*)\Z", re.DOTALL)
_OPTION: Final = re.compile(r"--?([A-Za-z][\w-]*)\Z")


def masked(text: str) -> str:
    """The same with `***` for what shows by itself that it is a secret.

    >>> masked("git+https://me:s3cret@example.org/repository"), masked("pull hf_abcdefghijklmnopqrstuv now")
    ('git+https://***@example.org/repository', 'pull *** now')
    """
    return _KNOWN.sub(MASK, _IN_ADDRESS.sub(MASK, text))


def masked_words(words: Iterable[str]) -> list[str]:
    """The words of a command line, likewise, and with `***` for a value whose name says that it is a secret.

    >>> masked_words(["train.py", "-m", "+wandb.api_key=abc", "eos_token=</s>", "--password", "abc", "seed=1,2"])
    ['train.py', '-m', '+wandb.api_key=***', 'eos_token=</s>', '--password', '***', 'seed=1,2']
    """
    found = list[str]()
    name = ""  # of the option before
    for word in map(str, words):
        setting = _SETTING.match(word)
        if setting is not None and _is_secret(setting[1], setting[2]):
            found.append(f"{setting[1]}={MASK}")
        elif name and _is_secret(name, word):
            found.append(MASK)
        else:
            found.append(masked(word))
        option = _OPTION.match(word)
        name = "" if option is None else option[1]
    return found


def masked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values by their names, likewise; those that are no texts stay.

    >>> masked_settings({"hub.password": "abc", "seed": 1, "data": "https://me:abc@example.org"})
    {'hub.password': '***', 'seed': 1, 'data': 'https://***@example.org'}
    """
    return {
        name: value if not isinstance(value, str) else MASK if _is_secret(name, value) else masked(value)
        for name, value in settings.items()
    }


def _is_secret(name: str, value: str) -> bool:
    """Whether a value of that name is one; `${...}` tells where one is, and is none."""
    value = value.strip("'\"")
    if not value or value.startswith(("${", "$")):
        return False
    name = name.lstrip("+~-")
    return bool(_ALWAYS.match(name)) or bool(_WHERE_RANDOM.match(name) and _RANDOM.match(value))
