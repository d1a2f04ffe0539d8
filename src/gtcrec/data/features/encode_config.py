"""The settings of an encoding: which columns of an items table, and how."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gtcrec.errors import ConfigError

__all__ = ["EncodeConfig"]

_KINDS = ("text", "image", "file", "tags", "numbers")


class EncodeConfig(BaseModel):
    """What is encoded, columns of one kind, and how.

    Columns of images or other files hold paths relative to the table's folder, or the files' bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: tuple[str, ...] = Field((), description="columns of text, joined by a blank")
    image: str | None = Field(None, description="a column of images")
    file: str | None = Field(None, description="a column of other files, such as audio, for a function")
    tags: tuple[str, ...] = Field((), description="columns of tags or categories: TF-IDF, then truncated SVD")
    numbers: tuple[str, ...] = Field((), description="columns of numbers: standardised, each with a mark of presence")
    encoder: str = Field(
        "",
        description="a folder or a name on the hub; if not given, all-MiniLM-L6-v2 for texts and the colour-and-layout "
        "descriptor for images; with a function, its name in the record",
    )
    function: str = Field("", description="package.module:name of an encoder of one's own, batch -> array")
    separator: Annotated[str, Field(min_length=1, description="between the tags of a cell")] = "|"
    width: Annotated[int, Field(ge=1, description="columns at most, of tags")] = 128
    dtype: Literal["float32", "float16"] = Field("float32", description="of the file")
    batch: Annotated[int, Field(ge=1, description="items encoded at once, which a killed job loses at most")] = 32
    device: str = Field("cpu", description="cpu, cuda or cuda:N")

    @property
    def kind(self) -> str:
        """The kind of content, one of text, image, file, tags and numbers."""
        kinds = [kind for kind in _KINDS if getattr(self, kind)]
        if len(kinds) != 1:
            found = " and ".join(kinds) or "none"
            raise ConfigError(f"expected columns of one kind ({', '.join(_KINDS)}), found {found}")
        return kinds[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of that kind."""
        named = getattr(self, self.kind)
        return (named,) if isinstance(named, str) else tuple(named)
