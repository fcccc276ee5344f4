"""Configurations as filters see them: interpolations resolved, enums by their names, whoever asks and from where."""

from typing import Any

from experiment_manager import codec


def resolved(encoded: codec.Encoded) -> Any:
    """Plain values for a tagged configuration. An interpolation that cannot be resolved here stays as it is written.

    >>> resolved({"seed": 2, "twice": "${seed}", "mode": {"$enum": ["train.Mode", "FAST"]}})
    {'seed': 2, 'twice': 2, 'mode': 'FAST'}
    """
    plain = _plain(encoded)
    if "${" not in codec.dumps(encoded) or not isinstance(plain, dict):
        return plain
    from omegaconf import OmegaConf  # which takes longer to import than most commands need

    return _resolve(OmegaConf.create(plain))


def _plain(encoded: codec.Encoded) -> Any:
    if isinstance(encoded, list):
        return [_plain(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if list(encoded) == ["$enum"]:
        return encoded["$enum"][1]
    if list(encoded) == ["$tuple"]:
        return _plain(encoded["$tuple"])
    if list(encoded) == ["$path"]:
        return encoded["$path"]
    if list(encoded) == ["$dict"]:
        return {codec.decode(key): _plain(item) for key, item in encoded["$dict"]}
    if len(encoded) == 1 and next(iter(encoded)).startswith("$"):
        return codec.decode(encoded)
    return {key: _plain(item) for key, item in encoded.items()}


def _resolve(config: Any) -> Any:
    from omegaconf import DictConfig, ListConfig

    if isinstance(config, DictConfig):
        return {key: _resolve(_item(config, key)) for key in config}
    if isinstance(config, ListConfig):
        return [_resolve(_item(config, place)) for place in range(len(config))]
    return config


def _item(config: Any, key: Any) -> Any:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return config[key]
    except OmegaConfBaseException:
        return config._get_node(key)._value()
