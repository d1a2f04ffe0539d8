"""What models and evaluations return: ranked lists and reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gtcrec.types.arrays import Floats, Ints
from gtcrec.types.display import html_table, show_html

__all__ = ["Report", "ReportContext", "TopK"]


@dataclass(frozen=True, eq=False)
class TopK:
    """Ranked lists: row b belongs to `users[b]`; places that could not be filled hold item -1, score -inf.

    `users` int64 [b], `items` int64 [b, k], `scores` float32 [b, k], best first, ties by ascending item.
    """

    users: Ints
    items: Ints
    scores: Floats

    @property
    def k(self) -> int:
        return int(self.items.shape[1])


@dataclass(frozen=True)
class ReportContext:
    """On what a report was measured, and how.

    `on` is "valid" or "test", "" for pairs of the caller's own. `masked` names the parts that were never recommended;
    `users` is "all" or how many of how many; `intervals` says how intervals were drawn; `fingerprints` are sha256
    sums of the `relevant` and the `train` pairs: equal sums are the same pairs.
    """

    on: str = ""
    masked: tuple[str, ...] = ()
    users: str = "all"
    protocol: Mapping[str, Any] = field(default_factory=dict)
    candidates: str = "all"
    seed: int = 0
    intervals: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, in types that JSON has."""
        known = {name: value for name, value in vars(self).items() if value not in ("", (), {})}
        return {**known, "masked": list(self.masked)} if self.masked else known

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "ReportContext":
        """Return the context that `to_dict` or version 0.1, which said `liked`, made; other keys are left out."""
        known = {name: value for name, value in stored.items() if name in cls.__dataclass_fields__}
        for name in ("counts", "fingerprints"):
            known[name] = {key.replace("liked", "relevant"): value for key, value in known.get(name, {}).items()}
        return cls(**{**known, "masked": tuple(known.get("masked", ()))})


@dataclass(frozen=True, eq=False)
class Report:
    """Metrics of ranked lists, as an evaluation measured them; `report["ndcg@20"]` is a mean.

    Parameters
    ----------
    users : numpy.ndarray
        int64 [b]: the users measured.
    per_user : mapping
        Metric -> float64 [b], in the order of `users`.
    means : mapping
        Metric -> mean over users.
    intervals : mapping
        Metric -> 95 % bootstrap interval of the mean.
    lists : mapping
        Metrics of all lists together, such as coverage.
    slices : mapping
        Group of users or items -> means over it.
    context : ReportContext
        On what and how it was measured.

    Examples
    --------
    >>> values = np.array([0.5, 1.0])
    >>> Report(np.arange(2), {"ndcg@20": values}, {"ndcg@20": 0.75})
    Report(users=2, ndcg@20=0.7500)
    """

    users: Ints
    per_user: Mapping[str, Floats]
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    lists: Mapping[str, float] = field(default_factory=dict)
    slices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    context: ReportContext = field(default_factory=ReportContext)

    def __getitem__(self, metric: str) -> float:
        return self.means[metric]

    def __repr__(self) -> str:
        shown = [name for name in self.means if name.endswith("@20")] or list(self.means)
        on = f"on={self.context.on!r}, " if self.context.on else ""
        return f"Report({on}users={len(self.users)}, {', '.join(f'{name}={self[name]:.4f}' for name in shown)})"

    def _repr_html_(self) -> str:
        cuts = list(dict.fromkeys(name.partition("@")[2] for name in (*self.means, *self.lists)))
        rows = []
        for kind in dict.fromkeys(name.partition("@")[0] for name in (*self.means, *self.lists)):
            rows.append([kind, *(self._cell(f"{kind}@{cut}" if cut else kind) for cut in cuts)])
        title = f"{self.context.on or 'report'}, {len(self.users):,} users, mean and 95 % interval"
        html = html_table(rows, ["metric", *(f"@{cut}" if cut else "" for cut in cuts)], title)
        if not self.slices:
            return html
        columns = list(dict.fromkeys(name for means in self.slices.values() for name in means))
        slices = [
            [group, *(f"{means[name]:.4g}" if means.get(name) is not None else "–" for name in columns)]
            for group, means in self.slices.items()
        ]
        return f"{html}<details><summary>slices</summary>{html_table(slices, ['group', *columns])}</details>"

    def _cell(self, name: str) -> str:
        value = self.means.get(name, self.lists.get(name))
        if value is None:
            return ""
        low, high = self.intervals.get(name, (None, None))
        return f"{value:.4f}" + ("" if low is None else f" ({low:.4f} to {high:.4f})")

    def show(self) -> None:
        """Display metrics and slices: in the notebook that this is called from, else in the browser.

        Examples
        --------
        Call `report.show()` in a cell. What a report is as the last value of a cell is the same.
        """
        show_html(self._repr_html_())
