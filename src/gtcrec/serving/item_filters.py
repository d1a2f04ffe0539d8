"""Filters on the columns of items: a text such as `category = 'Shoes' and price < 50` as a pyarrow expression.

The grammar, whose words may be written in any case:

    filter     = term {"or" term}
    term       = factor {"and" factor}
    factor     = "not" factor | "(" filter ")" | test
    test       = operand [("=" | "!=" | "<" | "<=" | ">" | ">=") operand
                          | ["not"] "in" "(" value {"," value} ")"
                          | ["not"] ("like" | "ilike") value
                          | ["not"] "between" value "and" value
                          | "is" ["not"] "null"]
    operand    = value | column
    value      = 'text' | number | "true" | "false"
    column     = name | "name in double quotes"

A quote inside quotes is written twice. In the pattern of `like`, % stands for any text and _ for one letter; `ilike`
ignores case. As in SQL, a test of an empty cell is neither true nor false, so that neither it nor its `not` keeps the
item; only `is null` does.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gtcrec.errors import ConfigError, nearest, shortened
from gtcrec.types import Ints

__all__ = ["matching_items", "parse_filter"]

_LONGEST, _DEEPEST = 20_000, 50  # letters of a filter; brackets and words `not` within one another
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w))
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")+")
    |(?P<name>[^\W\d]\w*)
    |(?P<sign><=|>=|<>|!=|==|[=<>(),]))""",
    re.VERBOSE,
)
_WORDS = ("and", "or", "not", "in", "is", "null", "like", "ilike", "between", "true", "false")
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": eq, "==": eq, "!=": ne, "<>": ne, "<": lt, "<=": le, ">": gt, ">=": ge,
}  # fmt: skip


def parse_filter(text: str, schema: pa.Schema | None = None) -> pc.Expression:
    """Return the expression that a filter says.

    Parameters
    ----------
    text : str
        In the grammar above.
    schema : pyarrow.Schema, optional
        The columns that the filter may name, with their types. Without it, names and types are not checked.

    Returns
    -------
    pyarrow.compute.Expression

    Raises
    ------
    ConfigError
        For a text outside the grammar, an unknown column, or a comparison of unlike types; it names the position.

    Examples
    --------
    >>> shop = pa.table({"category": ["Shoes", "Hats", "Shoes"], "price": [20.0, 30.0, 80.0]})
    >>> matching_items(shop, parse_filter("category = 'Shoes' and price < 50", shop.schema)).tolist()
    [0]
    >>> parse_filter("prise < 50", shop.schema)
    Traceback (most recent call last):
    gtcrec.errors.ConfigError: filter: at position 1: no column 'prise' (did you mean 'price'?); known: category, price
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"filter: expected at most {_LONGEST:,} letters, found {len(text):,}")
    return _Parser(text, schema).parse()


def matching_items(table: pa.Table, expression: pc.Expression) -> Ints:
    """Return the rows of a table for which an expression is true, ascending, int64.

    >>> matching_items(pa.table({"price": [9, None, 70]}), pc.field("price") < 50).tolist()
    [0]
    """
    from pyarrow.acero import Declaration, ProjectNodeOptions, TableSourceNodeOptions

    plan = Declaration.from_sequence(
        [
            Declaration("table_source", TableSourceNodeOptions(table)),
            Declaration("project", ProjectNodeOptions([expression], ["matches"])),
        ]
    )
    matches = pc.fill_null(plan.to_table(use_threads=False)["matches"], False)
    return np.flatnonzero(matches.to_numpy()).astype(np.int64)


@dataclass(frozen=True)
class _Token:
    """A word of a filter; kind is number, text, column, word (of the language), sign or end."""

    kind: str
    text: str
    position: int
    value: Any = None

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else shortened(self.text)


@dataclass(frozen=True)
class _Operand:
    """A column or a value, and what it is: "text", "number", "truth", "date", or "" if not known."""

    expression: Any
    kind: str
    token: _Token
    type: pa.DataType | None = None  # of a column

    @property
    def is_column(self) -> bool:
        return self.token.kind == "column"

    def __str__(self) -> str:
        name = f"column {self.token.value!r}" if self.is_column else str(self.token)
        return f"{name} ({self.kind})"


class _Parser:
    """Recursive descent over the words of a filter."""

    def __init__(self, text: str, schema: pa.Schema | None) -> None:
        self._tokens = _split(text)
        self._next = 0
        self._depth = 0
        self._schema = schema

    def parse(self) -> pc.Expression:
        found = self._any_of()
        if self._token.kind != "end":
            raise self._expected("and, or, or the end")
        return found

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _take_if(self, *words: str) -> bool:
        is_there = self._token.kind in ("word", "sign") and self._token.text.lower() in words
        self._next += is_there
        return is_there

    def _need(self, word: str) -> None:
        if not self._take_if(word):
            raise self._expected(word)

    def _expected(self, what: str) -> ConfigError:
        return _fault(self._token, f"expected {what}, found {self._token}")

    def _any_of(self) -> pc.Expression:
        return self._joined("or", lambda: self._joined("and", self._factor, and_), or_)

    def _joined(self, word: str, part: Callable[[], Any], join: Callable[[Any, Any], Any]) -> Any:
        parts = [part()]
        while self._take_if(word):
            parts.append(part())
        return _join_in_pairs(parts, join)

    def _factor(self) -> pc.Expression:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _fault(self._token, f"expected at most {_DEEPEST} brackets and nots within one another")
        if self._take_if("not"):
            found = ~self._factor()
        elif self._take_if("("):
            found = self._any_of()
            self._need(")")
        else:
            found = self._test()
        self._depth -= 1
        return found

    def _test(self) -> pc.Expression:
        left = self._operand()
        sign = self._token
        if sign.kind == "sign" and sign.text in _SIGNS:
            self._take()
            return _compare(sign, left, self._operand())
        if self._take_if("is"):
            negated = self._take_if("not")
            self._need("null")
            return left.expression.is_valid() if negated else left.expression.is_null()
        negated = self._take_if("not")
        found = self._word_test(left)
        if found is None:
            if negated or left.kind not in ("truth", ""):
                raise self._expected("in, like or between" if negated else "a comparison such as = or <")
            return left.expression
        return ~found if negated else found

    def _word_test(self, left: _Operand) -> pc.Expression | None:
        token = self._token
        if self._take_if("in"):
            return self._in_list(token, left)
        if self._take_if("like", "ilike"):
            pattern = self._operand()
            for side in (left, pattern):
                if side.kind not in ("text", ""):
                    raise _fault(side.token, f"{token.text} compares text, found {side}")
            if pattern.is_column:
                raise _fault(pattern.token, f"expected a pattern in quotes, found {pattern}")
            return pc.match_like(left.expression, pattern.token.value, ignore_case=token.text.lower() == "ilike")
        if self._take_if("between"):
            low = self._operand()
            self._need("and")
            return _compare(_Token("sign", ">=", token.position), left, low) & _compare(
                _Token("sign", "<=", token.position), left, self._operand()
            )
        return None

    def _in_list(self, token: _Token, left: _Operand) -> pc.Expression:
        self._need("(")
        values = [self._operand()]
        while self._take_if(","):
            values.append(self._operand())
        self._need(")")
        for value in values:
            if value.is_column:
                raise _fault(value.token, f"expected a text in single quotes or a number, found {value.token}")
        equal = [_compare(_Token("sign", "=", token.position), left, value) for value in values]
        return _join_in_pairs(equal, or_)

    def _operand(self) -> _Operand:
        token = self._take()
        if token.kind == "column":
            return self._column(token)
        if token.kind == "word" and token.text.lower() in ("true", "false"):
            return _Operand(pc.scalar(token.text.lower() == "true"), "truth", token)
        if token.kind in ("number", "text"):
            return _Operand(pc.scalar(token.value), token.kind, token)
        if token.kind == "word" and token.text.lower() == "null":
            raise _fault(token, "a comparison with null is never true; ask `is null`")
        raise _fault(token, f"expected a column, a number or a text in single quotes, found {token}")

    def _column(self, token: _Token) -> _Operand:
        name = token.value
        if self._schema is None:
            return _Operand(pc.field(name), "", token)
        if name not in self._schema.names:
            known = ", ".join(self._schema.names)
            before = self._tokens[self._next - 2] if self._next > 1 else token
            hint = "; text stands in single quotes" if before.kind == "sign" and before.text != "(" else ""
            raise _fault(token, f"no column {name!r}{nearest(name, self._schema.names)}; known: {known}{hint}")
        kind = self._schema.field(name).type
        return _Operand(pc.field(name), _kind_of(kind), token, kind)


def _join_in_pairs(parts: list[Any], join: Callable[[Any, Any], Any]) -> Any:
    """Join expressions two by two: a chain of thousands would be as deep as it is long."""
    while len(parts) > 1:
        parts = [reduce(join, parts[place : place + 2]) for place in range(0, len(parts), 2)]
    return parts[0]


def _split(text: str) -> list[_Token]:
    """Return the words of a filter, and an end after them."""
    found, place = [], 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            rest = text[start:]
            if rest[0] in "'\"":
                raise ConfigError(f"filter: at position {start + 1}: a quote that does not end: {shortened(rest)}")
            raise ConfigError(f"filter: at position {start + 1}: not a word of filters: {shortened(rest.split()[0])}")
        found.append(_token(match))
        place = match.end()
    return [*found, _Token("end", "", len(text) + 1)]


def _token(match: re.Match[str]) -> _Token:
    kind = match.lastgroup or ""
    text, position = match[kind], match.start(kind) + 1
    if kind == "number":
        whole = re.fullmatch(r"-?\d{1,18}", text)
        return _Token("number", text, position, int(text) if whole else float(text))
    if kind == "text":
        return _Token("text", text, position, text[1:-1].replace("''", "'"))
    if kind == "quoted":
        return _Token("column", text, position, text[1:-1].replace('""', '"'))
    if kind == "name":
        return _Token("word" if text.lower() in _WORDS else "column", text, position, text)
    return _Token("sign", text, position)


def _compare(sign: _Token, left: _Operand, right: _Operand) -> pc.Expression:
    """Return the comparison of two operands; raise `ConfigError` unless they are of one kind."""
    if not (left.is_column or right.is_column):
        raise _fault(left.token, f"expected a column on one side of {sign.text}, found {left.token} and {right.token}")
    left, right = _as_date(left, right), _as_date(right, left)
    if left.kind and right.kind and left.kind != right.kind:
        hint = (
            "; text stands in single quotes" if left.kind == "text" and right.token.kind in ("number", "word") else ""
        )
        raise _fault(sign, f"cannot compare {left} with {right}{hint}")
    if "truth" in (left.kind, right.kind) and sign.text not in ("=", "==", "!=", "<>"):
        raise _fault(sign, f"true and false are equal or not, found {sign.text}")
    made: pc.Expression = _SIGNS[sign.text](left.expression, right.expression)
    return made


def _as_date(value: _Operand, other: _Operand) -> _Operand:
    """Return a text that is compared with a column of dates as a date."""
    if not (value.token.kind == "text" and other.kind == "date"):
        return value
    try:
        date = pa.scalar(value.token.value).cast(other.type)
    except pa.ArrowException as error:
        raise _fault(value.token, f"expected a date such as '2024-05-01', found {value.token}") from error
    return _Operand(pc.scalar(date), "date", value.token)


def _kind_of(kind: pa.DataType) -> str:
    checks: Sequence[tuple[str, Any]] = (
        ("text", pa.types.is_string),
        ("number", pa.types.is_integer),
        ("number", pa.types.is_floating),
        ("truth", pa.types.is_boolean),
        ("date", pa.types.is_date),
        ("date", pa.types.is_timestamp),
    )
    return next((name for name, check in checks if check(kind)), str(kind))


def _fault(token: _Token, text: str) -> ConfigError:
    return ConfigError(f"filter: at position {token.position}: {text}")
