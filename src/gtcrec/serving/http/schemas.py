"""What requests hold and what answers say, as OpenAPI shows it."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from gtcrec.serving.http.events import EventKind

__all__ = [
    "AddedItem",
    "Answer",
    "Answers",
    "EventIds",
    "EventIn",
    "EventsIn",
    "Experiment",
    "ItemsAdded",
    "ItemsIn",
    "Message",
    "RankedItem",
    "RecommendIn",
    "SimilarItem",
    "SimilarItems",
    "VariantState",
]

Id = Annotated[str, Field(min_length=1, max_length=1024)]
Impression = Annotated[str, Field(pattern="^([a-z]-[0-9a-f]{24})?$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=1 << 20)]  # a limit lets pydantic refuse what UTF-8 cannot hold
Cell = bool | int | Number | Text | list[Text] | None


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendIn(_Request):
    """Whose lists, and from which items: `users`, or one `history`."""

    users: list[Id] | None = Field(None, min_length=1, description="Users of the data, or whose events are known.")
    history: list[Id] | None = Field(None, min_length=1, description="The items of somebody who has no id.")
    n: int = Field(10, ge=1, description="Length of the lists.")
    offset: int = Field(0, ge=0, le=100_000, description="How many of the best items to pass over.")
    where: str | None = Field(None, max_length=10_000, description="A filter on the items table.")
    items: list[Id] | None = Field(None, min_length=1, description="The only items that may be listed.")
    exclude: list[Id] | None = Field(None, description="Items that may not be listed.")
    exclude_seen: bool = Field(True, description="Leave out items of the history, the training and events.")
    diversity: float = Field(0.0, ge=0, lt=1, description="Weight of maximal marginal relevance.")
    explain: bool = Field(False, description="Say what each score is made of.")


class EventIn(_Request):
    """One thing that a user did with an item."""

    user: Id
    item: Id
    kind: EventKind
    impression: Impression = Field("", description="That of the answer which showed the item.")
    time: Number = Field(0.0, ge=0, description="Seconds since 1970; of arrival if left out.")


class EventsIn(_Request):
    """Events, kept all or none; under a key that is known already they are not kept again."""

    events: list[EventIn] = Field(min_length=1)
    idempotency_key: str = Field("", max_length=200)


class AddedItem(_Request):
    """An item that came after training."""

    item: Id
    content: dict[str, list[Number]] = Field({}, description="Modality -> vector, as training had; zeros if it lacks.")
    columns: dict[Text, Cell] | None = Field(
        None, description="Column of the items table -> value. The content that is not given is encoded of them."
    )


class ItemsIn(_Request):
    """Items to add, all or none."""

    items: list[AddedItem] = Field(min_length=1)


class Message(BaseModel):
    """What went wrong, in one line."""

    message: str


class RankedItem(BaseModel):
    """An item of a list."""

    item: str
    rank: int
    score: float
    explanation: dict[str, Any] | None = None


class Answer(BaseModel):
    """One list; `impression` is what events quote, `version` the model's, `variant` the run's of an experiment."""

    user: str | None
    variant: str
    version: str
    impression: str
    items: list[RankedItem]


class Answers(BaseModel):
    """A list for each user."""

    answers: list[Answer]


class SimilarItem(BaseModel):
    """An item of a list of similar ones."""

    item: str
    rank: int
    score: float


class SimilarItems(BaseModel):
    """The items most similar to one."""

    item: str
    variant: str
    version: str
    impression: str
    items: list[SimilarItem]


class EventIds(BaseModel):
    """Ids of events that are on the disk."""

    ids: list[int]


class ItemsAdded(BaseModel):
    """The version of each variant from now on; of one that cannot score new items, why not.

    `unread` says of each variant which content it could not read: it knows these items without.
    """

    versions: dict[str, str]
    refused: dict[str, str]
    unread: dict[str, list[str]]


class VariantState(BaseModel):
    """A run of the experiment; `interval` holds at all looks together with probability .95."""

    name: str
    run: str
    version: str
    share: float
    users: int
    lists: int
    clicked: int
    rate: float | None
    interval: tuple[float, float]
    difference: tuple[float, float, float] | None = Field(
        description="To the first variant: rate, and the ends of its interval."
    )


class Experiment(BaseModel):
    """What each variant showed and what was clicked."""

    variants: list[VariantState]
