"""Write what the documentation says of models and settings from the code: `make docs` runs it."""

import re
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from gtcrec.data import ReadConfig, SplitConfig
from gtcrec.evaluation.protocol import EvaluateConfig
from gtcrec.models import get_spec, list_models
from gtcrec.reporting.setting_ranges import setting_ranges
from gtcrec.training.trainer import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = {
    "data": (ReadConfig, "How a catalog is read. `data.path` is the folder or file."),
    "split": (SplitConfig, "How interactions are divided."),
    "train": (TrainConfig, "The training loop, the same for every model that trains."),
    "evaluate": (EvaluateConfig, "What is measured."),
}


def models_table() -> str:
    """Return the table of models: name, what it is, source."""
    rows = [f"| `{name}` | {summary} | {get_spec(name).paper} |" for name, summary in list_models().items()]
    return "\n".join(["| model | what it is | source |", "| --- | --- | --- |", *rows])


def settings_page() -> str:
    """Return the glossary of all settings, with defaults, presets and search spaces."""
    parts = [
        "# Settings",
        "Written by `make docs` from the code. A setting is given as `key=value` after `gtcrec train DATA MODEL`, in a "
        "YAML file with `--config`, or as a keyword in Python. A key of the sections below has the section's name and "
        "a dot before it, as in `split.seed=3`; a model's own key, and one of `train`, stands alone.",
    ]
    for name, (config, about) in SECTIONS.items():
        parts += [f"## {name}", about, settings_table(config)]
    parts.append("## Models")
    for name, summary in list_models().items():
        spec = get_spec(name)
        parts += [f"### {name}", f"{summary[:1].upper()}{summary[1:]}." + (f" {spec.paper}." if spec.paper else "")]
        parts.append(settings_table(spec.config) if spec.config.model_fields else "No settings.")
        parts += presets_text(name)
    return "\n\n".join(parts) + "\n"


def settings_table(config: type[BaseModel]) -> str:
    """Return a table of a config's fields: name, default, range and meaning."""
    rows, ranges = [], setting_ranges(config)
    for name, field in config.model_fields.items():
        default = "" if field.default is PydanticUndefined else _shown(field.default)
        if field.default_factory is not None:
            default = "{}"
        rows.append(f"| `{name}` | {default} | {_escaped(ranges[name])} | {_escaped(field.description or '')} |")
    return "\n".join(["| key | default | range | meaning |", "| --- | --- | --- | --- |", *rows])


def presets_text(name: str) -> list[str]:
    """Return a paragraph a preset of a model that has more than the default one, and one on what a search tries."""
    spec, parts = get_spec(name), []
    for preset, (settings, training) in spec.presets.items():
        changed = {**settings, **{f"train.{key}": value for key, value in training.items()}}
        if changed:
            parts.append(f"Preset `{preset}`: {', '.join(f'`{key}={value}`' for key, value in changed.items())}.")
    if spec.search_space:
        tried = "; ".join(f"`{key}` {', '.join(map(str, values))}" for key, values in spec.search_space.items())
        parts.append(f"`gtcrec tune` tries: {tried}.")
    return parts


def with_table(page: str, name: str, table: str) -> str:
    """Return a Markdown page with what stands between the markers of a table replaced.

    >>> with_table("<!-- generated: x -->\\nold\\n<!-- end -->", "x", "new").splitlines()[1]
    'new'
    """
    start = re.escape(f"<!-- generated: {name} -->")
    return re.sub(
        rf"({start}\n).*?(<!-- end -->)", lambda found: f"{found[1]}{table}\n{found[2]}", page, flags=re.DOTALL
    )


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{_escaped(text)}`"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), "models", models_table()), encoding="utf-8")
    (ROOT / "docs" / "settings.md").write_text(settings_page(), encoding="utf-8")
