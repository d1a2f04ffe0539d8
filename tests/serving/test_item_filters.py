"""Filters on item columns: what they keep, and what their errors name."""

import datetime
import operator
import re
import sqlite3

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gtcrec.errors import ConfigError
from gtcrec.serving.item_filters import matching_items, parse_filter

SHOP = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "category": ["Shoes", "Hats", None, "Shoes"],
        "price": [20.0, None, 70.0, 50.0],
        "stock": [3, 0, 7, None],
        "sale": [True, False, None, True],
        "since": [datetime.date(2024, 5, 1), datetime.date(2023, 1, 1), None, datetime.date(2024, 6, 1)],
        "per cent": [1, 2, 3, 4],
    }
)


def kept(text):
    rows = matching_items(SHOP, parse_filter(text, SHOP.schema))
    return "".join(SHOP["item_id"].take(pa.array(rows)).to_pylist())


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("category = 'Shoes' and price < 50", "a"),
        ("category = 'Shoes' AND NOT price < 50", "d"),
        ("category = 'Hats' or price >= 50 and stock > 1", "bc"),
        ("(category = 'Hats' or price >= 50) and stock < 1", "b"),
        ("50 <= price", "cd"),
        ("price > stock", "ac"),
        ("price between 20 and 50", "ad"),
        ("not price between 20 and 50", "c"),
        ("price not between 20 and 50", "c"),
        ("category in ('Hats', 'Bags')", "b"),
        ("category not in ('Hats', 'Bags')", "ad"),
        ("category != 'Shoes'", "b"),
        ("category <> 'Shoes'", "b"),
        ("category is null", "c"),
        ("category is not null and not stock is null", "ab"),
        ("category like 'S%'", "ad"),
        ("category like '_ats'", "b"),
        ("category ilike 'sh%'", "ad"),
        ("category not like 'S%'", "b"),
        ("sale", "ad"),
        ("not sale", "b"),
        ("sale = false", "b"),
        ("since >= '2024-05-01'", "ad"),
        ("since between '2023-01-01' and '2024-05-01'", "ab"),
        ('"per cent" > 3', "d"),
        ("item_id in ('d', 'a')", "ad"),
        ("stock = 3.0", "a"),
        ("price > -1e1 and stock < 99999999999999999999", "ac"),
        ("category = 'O''Neill'", ""),
    ],
)
def test_a_filter_keeps(text, items):
    assert kept(text) == items


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at position 1: expected a column, a number or a text in single quotes, found the end"),
        ("price <", "at position 8: expected a column, a number or a text in single quotes, found the end"),
        ("prise < 5", "at position 1: no column 'prise' (did you mean 'price'?); known: item_id, category, price"),
        ("price < 5 stock", "at position 11: expected and, or, or the end, found 'stock'"),
        ("(price < 5", "at position 11: expected ), found the end"),
        ("price < '5'", "at position 7: cannot compare column 'price' (number) with \"'5'\" (text)"),
        ("category = 5", "cannot compare column 'category' (text) with '5' (number); text stands in single quotes"),
        (
            "category = Shoes",
            "stock, sale, since, per cent; text stands in single quotes",
        ),
        ("category = 'Shoes", 'at position 12: a quote that does not end: "\'Shoes"'),
        ("price ; drop", "at position 7: not a word of filters: ';'"),
        ("price", "at position 6: expected a comparison such as = or <, found the end"),
        ("price not 5", "at position 11: expected in, like or between, found '5'"),
        ("price = null", "at position 9: a comparison with null is never true; ask `is null`"),
        ("1 = 1", "at position 1: expected a column on one side of =, found '1' and '1'"),
        ("since > 'May'", "at position 9: expected a date such as '2024-05-01', found \"'May'\""),
        ("sale > false", "at position 6: true and false are equal or not, found >"),
        ("price like '5%'", "at position 1: like compares text, found column 'price' (number)"),
        ("category in (stock)", "at position 14: expected a text in single quotes or a number, found 'stock'"),
        ("category in ()", "at position 14: expected a column, a number or a text in single quotes, found ')'"),
        ("category is 5", "at position 13: expected null, found '5'"),
        ("__import__('os')", "at position 1: no column '__import__'"),
        ("not " * 60 + "sale", "expected at most 50 brackets and nots within one another"),
        ("x" * 20_001, "expected at most 20,000 letters, found 20,001"),
    ],
)
def test_an_error_names_position_and_what_was_expected(text, said):
    with pytest.raises(ConfigError, match=f"filter: .*{re.escape(said)}|filter: {re.escape(said)}"):
        parse_filter(text, SHOP.schema)


def test_long_chains_are_no_deep_ones():
    assert kept(" or ".join(["stock = 3"] * 1500)) == "a"
    assert kept(f"stock in ({', '.join(map(str, range(3, 3000)))})") == "ac"


@given(st.text(alphabet=" ()<>=!'\"%,.-019abnotrx\u00e9\x00", max_size=30))
def test_any_text_is_a_filter_or_a_clear_error(text):
    try:
        expression = parse_filter(text, SHOP.schema)
    except ConfigError:
        return
    assert set(matching_items(SHOP, expression).tolist()) <= {0, 1, 2, 3}


TESTS = st.one_of(
    st.builds("{} {} {}".format, st.sampled_from(["price", "stock"]), st.sampled_from(["=", "!=", "<", ">=", "<>"]),
              st.one_of(st.integers(-5, 80), st.sampled_from([20.0, 49.5, 1e2, "price", "stock"]))),
    st.builds("category {} {}".format, st.sampled_from(["=", "<", ">=", "like"]), st.sampled_from(["'Shoes'", "'H%'"])),
    st.builds("category {}in ({})".format, st.sampled_from(["", "not "]), st.sampled_from(["'Hats'", "'Hats', 'x'"])),
    st.builds("{} is {}null".format, st.sampled_from(["price", "category"]), st.sampled_from(["", "not "])),
    st.builds("stock {}between {} and {}".format, st.sampled_from(["", "not "]), st.integers(-1, 4), st.integers(0, 9)),
)  # fmt: skip
FILTERS = st.recursive(
    TESTS,
    lambda part: st.one_of(
        st.builds("not ({})".format, part),
        st.builds("({}) {} ({})".format, part, st.sampled_from(["and", "or"]), part),
        st.builds("{} {} {}".format, part, st.sampled_from(["and", "or"]), part),
    ),
    max_leaves=6,
)


@given(FILTERS)
@settings(max_examples=300)
def test_filters_keep_what_sqlite_does(text):
    with sqlite3.connect(":memory:") as base:
        base.execute("pragma case_sensitive_like = on")
        base.execute("create table shop (item_id text, category text, price real, stock integer)")
        columns = ("item_id", "category", "price", "stock")
        rows = zip(*(SHOP[name].to_pylist() for name in columns), strict=True)
        base.executemany("insert into shop values (?, ?, ?, ?)", list(rows))
        expected = base.execute(f"select item_id from shop where {text} order by item_id").fetchall()
    base.close()
    assert kept(text) == "".join(map(operator.itemgetter(0), expected))
