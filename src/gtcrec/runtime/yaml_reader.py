"""YAML as this package reads it: the scalars of YAML 1.2, no key twice, no more than fits on a few pages."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from gtcrec.errors import ConfigError

__all__ = ["parse_yaml", "read_yaml"]

_MOST_VALUES = 100_000  # aliases count as often as they stand: a few lines can unfold to gigabytes
_WORD = 200  # letters of a word that an error shows
_DEEPEST = 50


def parse_yaml(text: str, where: str) -> Any:
    """Return the YAML value of `text`; 1e-4 is a number, only true and false are truth values, dates are text.

    Raises `ConfigError` naming `where`, also for a key that stands twice and a number with a leading zero: 010 is 8 in
    YAML 1.1 and 10 in YAML 1.2.
    """
    try:
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        said = [word if len(word) <= _WORD else f"{word[:_WORD]}..." for word in str(error).split()]
        raise ConfigError(f"{where}: not YAML: {' '.join(said)}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: not YAML: nested deeper than {_DEEPEST} levels") from error
    _refuse_large(value, where)
    return value


def read_yaml(file: Path, expected: str = "keys and values") -> dict[str, Any]:
    """Return the keys and values of a YAML file. Raises `ConfigError` naming the file and what was `expected`."""
    try:
        value = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: expected {expected}, found {type(value).__name__}")
    return value


def _refuse_large(value: Any, where: str) -> None:
    """Raise `ConfigError` for a value that unfolds to too many or too deep."""
    rest, seen = [(value, 0)], 0
    while rest:
        one, depth = rest.pop()
        seen += 1
        if depth > _DEEPEST:
            raise ConfigError(f"{where}: not YAML: nested deeper than {_DEEPEST} levels")
        if seen > _MOST_VALUES:
            raise ConfigError(f"{where}: holds more than {_MOST_VALUES:,} values")
        if isinstance(one, dict):
            rest += [(inner, depth + 1) for pair in one.items() for inner in pair]
        elif isinstance(one, list | tuple | set):
            rest += [(inner, depth + 1) for inner in one]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: PyYAML's own rules take `off` for false, 1:30 for 90 and 1e-4 for text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        digits = node.value.lstrip("+-")
        if digits != "0" and digits.startswith("0"):
            said = f"{node.value} may be in base 8; write {digits.lstrip('0') or '0'}, or in quotes what is text"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        return int(node.value)


_OTHERS = ("bool", "float", "int", "timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] not in _OTHERS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf)|\.(?:nan|NaN))$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)
