"""What looks like a secret in texts that are written down for others to read: a password in a command line, a token
in an address. It is told by its name, by how it begins, or by its place in an address.

Values that a job needs are kept as they are: they are its configuration. Where that has a secret in it,
`${oc.env:NAME}` in its place keeps the secret in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from experiment_manager.typing_names import Any, Final

MASK: Final = "***"

_VALUE: Final = r"""(?P<value>\$\{[^}]*\}|'[^']*'|"[^"]*"|\[[^\]]*\]|[^\s,}\]'"]+)"""
_NAME: Final = r"(?:password|passwd|passphrase|secret|credential|(?:api|access|secret|private|auth)[_-]?key)s?"
_NAMED: Final = re.compile(rf"""(?P<name>{_NAME}["']?\s*[=:]\s*){_VALUE}""", re.IGNORECASE)
_TOKEN: Final = re.compile(r"""(?P<name>(?<![a-z0-9])token["']?\s*[=:]\s*["']?)(?P<value>[\w-]{20,})""", re.IGNORECASE)
"""Those who train language models have other tokens, too; only what looks random is one of these."""

_KNOWN: Final = re.compile(
    r"\b(?:gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{15,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16})"
)
"""How those of GitHub, GitLab, Hugging Face, OpenAI, Slack and AWS begin."""

_WORD: Final = re.compile(r"[A-Z]?[a-z]{1,20}(?:[A-Z][a-z]{2,20}){0,3}|[A-Z]{1,20}|[A-Za-z0-9]{0,4}")
"""What names are made of: `resnet`, `BERT`, `ImageNet`; and `50`, `1k`, `v2`."""

_JOINT: Final = re.compile(r"[-_]")

_IN_ADDRESS: Final = re.compile(r"(?<=://)[^/\s]+(?=@)")
_HUNK: Final = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_LOGIN: Final = re.compile(r"(?<=://)[^/\s:@{}$'\"]*:[^/\s@{}$'\"]+(?=@)")
_QUOTED: Final = re.compile(
    rf"""(?P<name>{_NAME}["']?\]?\s*(?::\s{{0,9}}[\w.|\[\] ]{{1,99}}=|[=:])\s*)"""  # with an annotation, of no more
    r"""(?P<quote>["'])(?P<value>(?:(?!(?P=quote))[^\\{}])+)(?P=quote)""",
    re.IGNORECASE,
)
_REFERENCE: Final = re.compile(r"""['"]?(?:\$\{.*\}|\$\w+|\*\*\*)['"]?\Z""", re.DOTALL)
_SETTING: Final = re.compile(rf"(?P<name>[^\s=]*{_NAME}=)(?P<value>.+)\Z", re.IGNORECASE | re.DOTALL)
_OPTION: Final = re.compile(rf"--?(?:[\w-]*[_-])?{_NAME}\Z", re.IGNORECASE)


def masked(text: str) -> str:
    """The same with `***` for what shows by itself that it is a secret.

    >>> masked("git+https://me:s3cret@example.org/repository"), masked("pull hf_abcdefghijklmnopqrstuv now")
    ('git+https://***@example.org/repository', 'pull *** now')
    >>> masked("export WANDB_API_KEY=abc"), masked("+hub={password: abc, user: me}"), masked("eos_token=</s>")
    ('export WANDB_API_KEY=***', '+hub={password: ***, user: me}', 'eos_token=</s>')
    """
    for pattern in (_NAMED, _TOKEN):
        text = pattern.sub(_without_value, text)
    return _KNOWN.sub(_mask_of_known, _IN_ADDRESS.sub(MASK, text))


def masked_words(words: Iterable[str]) -> list[str]:
    """The words of a command line, likewise, and with `***` for one that follows an option whose name says so.

    >>> masked_words(["train.py", "-m", "+wandb.api_key=abc", "--password", "abc", "seed=1,2"])
    ['train.py', '-m', '+wandb.api_key=***', '--password', '***', 'seed=1,2']
    """
    found = list[str]()
    is_next_one = False
    for word in map(str, words):
        setting = _SETTING.match(word)
        if is_next_one and not _REFERENCE.match(word):
            found.append(MASK)
        elif setting is not None and not _REFERENCE.match(setting["value"]):
            found.append(f"{setting['name']}{MASK}")
        else:
            found.append(masked(word))
        is_next_one = bool(_OPTION.match(word))
    return found


def masked_patch(patch: bytes) -> tuple[bytes, int]:
    """What `git diff` has printed, with `***` for secrets in added lines, and in how many; `git apply` takes it.

    Code has names and calls where a command line has values: here a secret is what begins as one, what stands in an
    address with a name before it, and a text in quotes behind the name of one.
    """
    lines, n_masked, old, new = patch.decode("latin-1").split("\n"), 0, 0, 0
    for place, line in enumerate(lines):
        if not old and not new:
            hunk = _HUNK.match(line)
            old, new = (int(hunk[1] or 1), int(hunk[2] or 1)) if hunk else (0, 0)
            continue
        old, new = old - line.startswith(("-", " ")), new - line.startswith(("+", " "))
        if line.startswith("+"):
            shown = _QUOTED.sub(_without_quoted, _LOGIN.sub(MASK, _KNOWN.sub(_mask_of_known, line)))
            n_masked += shown != line
            lines[place] = shown
    return "\n".join(lines).encode("latin-1"), n_masked


class Masks:
    """Masks of settings that stay as different from each other as the settings were: `***`, then `***2`, `***3`."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The values by their names, with what is in them; those that are no texts stay.

        >>> masks = Masks()
        >>> masks.settings({"hub.password": "abc", "seed": 1}), masks.settings({"hub.password": "two words"})
        ({'hub.password': '***', 'seed': 1}, {'hub.password': '***2'})
        >>> masks.settings({"hub": {"password": "abc", "user": "me"}, "api_keys": [["x"]]})
        {'hub': {'password': '***', 'user': 'me'}, 'api_keys': [['***3']]}
        """
        return {name: self._shown_of(name, value) for name, value in settings.items()}

    def _shown_of(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return self._of(name, value)
        if isinstance(value, Mapping):
            is_secret = masked(f"{name}=x") != f"{name}=x"  # so is all that is in it
            return {key: self._shown_of(name if is_secret else f"{name}.{key}", item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)([self._shown_of(name, item) for item in value])
        return value

    def _of(self, name: str, value: str) -> str:
        whole = masked(f"{name}={value}")
        if whole == f"{name}={value}":
            return value
        shown = MASK if whole.startswith(f"{name}={MASK}") else whole[len(name) + 1 :]
        if value not in self._shown:
            others = {*self._shown.values()}
            numbered = (shown, *(f"{shown}{number}" for number in range(2, len(others) + 3)))
            self._shown[value] = next(text for text in numbered if text not in others)
        return self._shown[value]


def _mask_of_known(match: re.Match[str]) -> str:
    """A mask; the text itself where it begins as a secret does, and is of words, as `sk-resnet-50-imagenet-1k`."""
    is_of_words = match[0].startswith("sk-") and all(map(_WORD.fullmatch, _JOINT.split(match[0])))
    return match[0] if is_of_words else MASK


def _without_quoted(match: re.Match[str]) -> str:
    quote, value = match["quote"], match["value"]
    return match[0] if _REFERENCE.match(value) else f"{match['name']}{quote}{MASK}{quote}"


def _without_value(match: re.Match[str]) -> str:
    """What the name says, and a mask for the value, unless that only tells where the secret is."""
    value = match["value"]
    is_random = match.re is _NAMED or (re.search(r"[0-9].*[0-9]", value) and re.search(r"[A-Za-z]", value))
    if _REFERENCE.match(value) or not is_random:
        return match[0]
    quote = value[0] if value[0] in "'\"" else ""
    return f"{match['name']}{quote}{MASK}{quote}"
