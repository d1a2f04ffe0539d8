"""Reading RecBole's atomic files."""

from pathlib import Path

import numpy as np
import pytest

from gtcrec.data import ReadConfig, load
from gtcrec.errors import DataError

HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEMS = "item_id:token\ttitle:token_seq\tclass:token_seq\tprice:float\nq\tA blue mug\tcups blue\t3.5\np\tA lamp\t\t\n"


def folder_of(tmp_path: Path, **texts: str) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"shop.{name.replace('_', '.')}").write_text(text)
    return folder


def parts(**more: str) -> dict[str, str]:
    given = {
        "train_inter": f"{HEAD}ann\tp\t5\t10\nbob\tq\t4\t11\n",
        "valid_inter": f"{HEAD}ann\tq\t3\t12\n",
        "test_inter": f"{HEAD}bob\tp\t1\t13\n",
    }
    return given | more


def test_one_file_has_ids_of_any_kind_and_no_labels(tmp_path: Path) -> None:
    data = load(folder_of(tmp_path, inter=f"{HEAD}ann\tq\t5\t10\nbob\tp\t4\t11.5\n"))
    assert data.users.ids.tolist() == ["ann", "bob"]
    assert data.items.ids.tolist() == ["p", "q"]
    assert data.interactions.items.tolist() == [1, 0]
    assert data.labels is None
    assert data.times is not None
    assert data.times.tolist() == [10, 11.5]


def test_ready_made_splits_become_labels_and_the_item_file_the_catalogue(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, **parts(item=ITEMS + "r\tNever sold\t\t\n"))
    np.save(folder / "text_feat.npy", np.array([[1.0], [2.0], [3.0]]))  # of q, p, r
    data = load(folder)
    assert data.name == "shop"
    users, items = data.users.external(data.interactions.users), data.items.external(data.interactions.items)
    assert data.labels is not None
    assert list(zip(users.tolist(), items.tolist(), data.labels.tolist(), strict=True)) == [
        ("ann", "p", 0), ("ann", "q", 1), ("bob", "p", 2), ("bob", "q", 0),
    ]  # fmt: skip
    assert data.items.ids.tolist() == ["p", "q", "r"]
    assert data.features.values["text"].ravel().tolist() == [2, 1, 3]
    assert data.item_metadata is not None
    assert data.item_metadata.titles == ("A lamp", "A blue mug", "Never sold")


def test_ratings_and_column_names_are_set_as_for_other_tables(tmp_path: Path) -> None:
    text = "who:token\titem_id:token\tstars:float\n1\t7\t5\n2\t8\t2\n"
    data = load(folder_of(tmp_path, inter=text), ReadConfig(user="who", min_rating=3))
    assert data.items.ids.tolist() == [7, 8]
    assert len(data.interactions) == 1


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (
            parts(test_inter=f"{HEAD}ann\tp\t5\t10\n"),
            "one user-item pair has label 0 in line 2 of shop.train.inter and label 2 in line 2 of shop.test.inter",
        ),
        (parts(test_inter=HEAD + "bob\t\t1\t2\n"), "item_id is empty in line 2 of shop.test.inter"),
        (
            parts(valid_inter="user_id:token\titem_id:token\nann\tq\n"),
            "shop.valid.inter: expected the columns of shop.train.inter, user_id, item_id, rating, timestamp",
        ),
        (parts(inter=f"{HEAD}ann\tp\t5\t10\n"), "found shop.inter and shop.train.inter; name the file to read"),
        (
            {name: text.replace("timestamp", "x_label") for name, text in parts().items()},
            "shop.train.inter: found a column x_label, though the file's name says the part",
        ),
        ({"inter": f"{HEAD}ann\tp\t5\t10\n{HEAD}"}, "the header stands again in line 3 of shop.inter"),
        (
            {"inter": "user_id:token\titem_id:token\tuser_id:float\nann\tp\t5\n"},
            "shop.inter: column 'user_id' stands 2 times in the header",
        ),
        (
            {"inter": f"{HEAD}ann\tp\t5\t10\n", "item": "item_id\ttitle\np\tx\n"},
            "shop.item: column 'item_id' must say its kind, such as user_id:token",
        ),
        (parts(item=ITEMS.replace("p\tA", "o\tA")), "item 'p' .line 2 of shop.train.inter. is missing from shop.item"),
        (parts(train_inter="userID\titemID\n0\t1\n"), "shop.train.inter: column 'userID' must say its kind"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_by_name_and_line(tmp_path: Path, texts: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(folder_of(tmp_path, **texts))


def test_a_missing_part_of_a_split_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, **parts())
    (folder / "shop.valid.inter").unlink()
    with pytest.raises(DataError, match=r"shop.valid.inter: no such file, though shop.train.inter is there"):
        load(folder)
