"""What values a setting takes, in words, from the limits of its type."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["setting_ranges"]

_KINDS = {"string": "text", "null": "none", "boolean": "true, false"}


def setting_ranges(config: type[BaseModel]) -> dict[str, str]:
    """Return the range of each setting of a config by name, "" for one that takes anything.

    >>> from pydantic import Field
    >>> class Example(BaseModel):
    ...     rate: float = Field(0.1, gt=0, le=1)
    ...     layers: int = Field(2, ge=1)
    >>> setting_ranges(Example)
    {'rate': '(0, 1]', 'layers': 'whole, >= 1'}
    """
    schema = config.model_json_schema()
    return {name: _range(schema["properties"][name]) for name in config.model_fields}


def _range(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(filter(None, map(_range, schema["anyOf"]))))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = schema.get("type", "")
    if kind == "object":
        return f"name: {_range(schema.get('additionalProperties') or {}) or 'anything'}"
    if kind == "array":
        parts = schema.get("prefixItems") or [schema.get("items") or {}]
        return f"list of {_range(parts[0]) or 'anything'}"
    if kind in ("integer", "number"):
        return ", ".join(filter(None, ["whole" if kind == "integer" else "", _limits(schema)])) or "number"
    return _KINDS.get(kind, "")


def _limits(schema: Mapping[str, Any]) -> str:
    """Return the limits of a number as an interval, or of one side alone as a comparison."""
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    lower = f">= {least:g}" if least is not None else f"> {above:g}" if above is not None else ""
    upper = f"<= {most:g}" if most is not None else f"< {below:g}" if below is not None else ""
    if not (lower and upper):
        return lower or upper
    return f"{'(' if least is None else '['}{lower.split()[1]}, {upper.split()[1]}{')' if most is None else ']'}"
