"""Names of modalities as names of torch modules."""

from collections.abc import Iterable

__all__ = ["module_keys"]


def module_keys(names: Iterable[str]) -> dict[str, str]:
    """Return a key for each modality that torch takes as the name of a module, a parameter or a buffer.

    torch forbids dots and some words; the number keeps the keys apart.

    >>> module_keys(["clip.v2", "text"])
    {'clip.v2': '0_clip_v2', 'text': '1_text'}
    """
    return {name: f"{place}_{name.replace('.', '_')}" for place, name in enumerate(names)}
