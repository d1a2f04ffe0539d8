"""Public data sets by name: where they are, under which terms, how large, and which sums their publishers give.

None is part of this package: the publishers' terms bind everyone who downloads.
"""

from dataclasses import dataclass

from gtcrec.errors import ConfigError, nearest

__all__ = ["PUBLIC_DATA", "PublicData", "PublicFile", "find_public_data"]


@dataclass(frozen=True)
class PublicFile:
    """A file to download: its address, about how many bytes it has (0: not known), and "md5:..." or "sha256:..."."""

    url: str
    size: int = 0
    checksum: str = ""

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PublicData:
    """A public data set; `kind` is what `convert` calls its format."""

    name: str
    title: str
    kind: str
    page: str
    licence: str
    files: tuple[PublicFile, ...]

    @property
    def size(self) -> int:
        """About how many bytes all files have, 0 where one is not known."""
        sizes = [file.size for file in self.files]
        return sum(sizes) if all(sizes) else 0


_CLOSED = "GroupLens's README: cite; no redistribution and no commercial use without permission"
_OPEN = "GroupLens's README: cite; redistribution under the same terms; no commercial use without permission"
_ASK = "no licence text known here: read the publisher's page, and cite the paper that it names"


def _movielens(name: str, what: str, size: int, md5: str, licence: str) -> PublicData:
    file = PublicFile(
        f"https://files.grouplens.org/datasets/movielens/ml-{name}.zip", size, f"md5:{md5}" if md5 else ""
    )
    page = f"https://grouplens.org/datasets/movielens/{name.removesuffix('-small')}/"
    return PublicData(f"movielens-{name}", f"MovieLens {what}", "movielens", page, licence, (file,))


def _amazon_2014_entry(category: str) -> PublicData:
    base = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
    files = (PublicFile(f"{base}/reviews_{category}_5.json.gz"), PublicFile(f"{base}/meta_{category}.json.gz"))
    return PublicData(
        f"amazon-2014-{_url_name(category)}", f"Amazon Reviews 2014, {_title_words(category)}, 5-core", "amazon",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html", _ASK, files,
    )  # fmt: skip


def _amazon_2018_entry(category: str) -> PublicData:
    base = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"
    files = (
        PublicFile(f"{base}/categoryFilesSmall/{category}_5.json.gz"),
        PublicFile(f"{base}/metaFiles2/meta_{category}.json.gz"),
    )
    return PublicData(
        f"amazon-2018-{_url_name(category)}", f"Amazon Reviews 2018, {_title_words(category)}, 5-core", "amazon",
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/", _ASK, files,
    )  # fmt: skip


def _amazon_2023_entry(category: str) -> PublicData:
    base = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
    files = (
        PublicFile(f"{base}/review_categories/{category}.jsonl.gz"),
        PublicFile(f"{base}/meta_categories/meta_{category}.jsonl.gz"),
    )
    return PublicData(
        f"amazon-2023-{_url_name(category)}", f"Amazon Reviews 2023, {_title_words(category)}, all", "amazon",
        "https://amazon-reviews-2023.github.io/", _ASK, files,
    )  # fmt: skip


def _microlens_entry(size: str, titles: str) -> PublicData:
    base = f"https://recsys.westlake.edu.cn/MicroLens-{size}-Dataset"
    files = (PublicFile(f"{base}/MicroLens-{size}_pairs.csv"), PublicFile(f"{base}/MicroLens-{size}_{titles}.csv"))
    page = "https://github.com/westlake-repl/MicroLens"
    title = f"MicroLens {size}, pairs and titles (covers are on the page)"
    return PublicData(f"microlens-{size.lower()}", title, "microlens", page, _ASK, files)


def _url_name(category: str) -> str:
    return category.lower().replace("_and_", "-").replace("_", "-")


def _title_words(category: str) -> str:
    return category.replace("_", " ")


# The sums are those in GroupLens's .zip.md5 files; the other publishers give none.
_ALL = (
    _movielens("100k", "100k: 100,000 ratings of 1,682 films", 4_924_029, "0e33842e24a9c977be4e0107933c0723", _CLOSED),
    _movielens("1m", "1M: 1,000,209 ratings of 3,900 films", 5_917_549, "c4d9eecfca2ab87c1945afe126590906", _CLOSED),
    _movielens("10m", "10M: 10,000,054 ratings, 95,580 tags", 65_566_137, "ce571fd55effeba0271552578f2648bd", _CLOSED),
    _movielens("20m", "20M: 20,000,263 ratings, tags", 198_702_078, "cd245b17a1ae2cc31bb14903e1204af3", _OPEN),
    _movielens("25m", "25M: 25,000,095 ratings, tags", 261_978_986, "6b51fb2759a8657d3bfcbfc42b592ada", _CLOSED),
    _movielens("32m", "32M: 32,000,204 ratings, tags", 238_950_008, "d472be332d4daa821edc399621853b57", _OPEN),
    _movielens("latest-small", "latest, small: about 100,000 ratings; changes with time", 0, "", _OPEN),
    *map(_amazon_2014_entry, ("Baby", "Sports_and_Outdoors", "Clothing_Shoes_and_Jewelry")),
    *map(_amazon_2018_entry, ("All_Beauty", "Sports_and_Outdoors", "Video_Games")),
    *map(_amazon_2023_entry, ("All_Beauty", "Baby_Products", "Sports_and_Outdoors", "Video_Games")),
    _microlens_entry("50k", "titles"),
    _microlens_entry("100k", "title_en"),
)

PUBLIC_DATA: dict[str, PublicData] = {one.name: one for one in _ALL}
"""The public data sets by name."""


def find_public_data(name: str) -> PublicData:
    """Return a public data set; raises `ConfigError` for an unknown name."""
    if name not in PUBLIC_DATA:
        raise ConfigError(f"no public data set {name!r}{nearest(name, PUBLIC_DATA)}; `gtcrec data list` names them")
    return PUBLIC_DATA[name]
