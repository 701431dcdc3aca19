"""`larr init` divides lists and nested values into rows and columns."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from larr.init.reader import Reader, Table
from larr.init.unnested import unnested
from tests.init.drafts import drafted, huts, texts, written

SLATES = [
    {
        "user": f"u{n % 7}",
        "ts": 1_700_000_000 + 60 * n,
        "shown": [100 + (n + 5 * k) % 20 for k in range(3)],
    }
    for n in range(40)
]
"""Three places shown at a time."""
CLICKS = [slate["shown"][1] if n % 3 else None for n, slate in enumerate(SLATES)]


def divided(folder: Path, rows: list[dict[str, Any]], form: str = "json") -> Table:
    """Returns a table as `larr init` reads it, from JSON or CSV."""
    if form == "csv":
        pl.DataFrame(rows).write_csv(folder / "log.csv")
    else:
        (folder / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    reader = Reader(folder, folder.parent / "scratch", folder.parent)
    return unnested(reader, reader.tables[0])


def clicked(table: Table) -> list[tuple[str, str, str]]:
    """Returns user, place and price of the clicked rows."""
    columns = [table[name].values for name in ("user", "item", "price", "click")]
    return [row[:3] for row in zip(*columns, strict=True) if row[3] == "true"]


@pytest.mark.parametrize("form", ["texts", "lists", "brackets"])
def test_shown_items_become_rows_with_clicks(folder: Path, form: str) -> None:
    """As trivago's impressions and reference, or as lists of shown and of clicked articles."""
    rows: list[dict[str, Any]] = []
    for slate, click in zip(SLATES, CLICKS, strict=True):
        row = slate | {"price": [item * 2 for item in slate["shown"]], "chosen": click}
        if form == "texts":
            row |= {name: "|".join(map(str, row[name])) for name in ("shown", "price")}
        elif form == "brackets":
            row |= {name: str([str(one) for one in row[name]]) for name in ("shown", "price")}
        else:
            row["chosen"] = [] if click is None else [click]
        rows.append(row)
    other = {"user": "u1", "ts": 1_700_009_000, "shown": None, "price": None, "chosen": "Berlin"}
    table = divided(
        folder, [*rows, *[other] * (form == "texts")], "json" if form == "lists" else "csv"
    )
    assert table.rows == 120
    assert clicked(table) == [
        (slate["user"], str(click), str(click * 2))
        for slate, click in zip(SLATES, CLICKS, strict=True)
        if click
    ]
    assert len(table["shown_request"].distinct) == 40


def test_a_list_of_labels_belongs_to_the_list_of_items(folder: Path) -> None:
    rows = [slate | {"labels": [0, int(n % 3 > 0), 0]} for n, slate in enumerate(SLATES)]
    table = divided(folder, rows)
    assert table["item"].values[:3].to_list() == ["100", "105", "110"]
    assert table["labels"].values[:6].to_list() == ["0", "0", "0", "0", "1", "0"]


def test_items_of_orders_become_rows(folder: Path) -> None:
    rows = [slate | {"dishes": slate["shown"][: 1 + n % 3]} for n, slate in enumerate(SLATES)]
    for row in rows:
        del row["shown"]
    assert divided(folder, rows)["item"].values[:3].to_list() == ["100", "101", "106"]


def test_lists_of_places_of_the_log_become_lists_of_its_places(folder: Path) -> None:
    log = huts()["log"].with_columns(
        tags=pl.concat_list(pl.format("tag {}", "hut_id"), pl.lit("a"))
    )
    text, config = written(folder, {"log": log.rename({"hiker": "user_id"})})
    assert "array_to_string(any_value(tags), ', ') AS tags" in text
    assert any("tags tag h3, a" in one for one in texts(config))


def test_words_of_places_stay_lists(folder: Path) -> None:
    """The first kind is one of all kinds, but no user has chosen it."""
    kinds = [f"kind {n}" for n in range(20)]
    rows = [
        {"hut": n, "kinds": kinds[n % 17 : n % 17 + 3], "first": kinds[n % 17]} for n in range(40)
    ]
    assert divided(folder, rows).rows == 40


def test_lists_that_describe_users_or_places_stay_lists(folder: Path) -> None:
    """One of the genres of a film is its main one, but no user has chosen it."""
    kinds = [f"kind {n}" for n in range(20)]
    film = [
        {"film_id": n % 9, "kinds": "|".join(kinds[n % 9 * 2 :][:3]), "main": kinds[n % 9 * 2]}
        for n in range(40)
    ]
    films = [{"user_id": n % 7, "clicked": n % 2} | row for n, row in enumerate(film)]
    assert divided(folder, films, "csv").rows == 40
    users = [
        {"user_id": n, "likes": row["kinds"], "most": row["main"]} for n, row in enumerate(film)
    ]
    assert divided(folder, users, "csv").rows == 40
    tags = [{"user_id": n % 7, "dish_tags": row["kinds"]} for n, row in enumerate(film)]
    assert divided(folder, tags, "csv").rows == 40
    past = [
        {"user_id": n % 7, "last_films": row["kinds"], "next": row["main"]}
        for n, row in enumerate(film)
    ]
    assert divided(folder, past, "csv").rows == 40
    dishes = [{"user_id": n % 7, "ordered_dishes": row["kinds"]} for n, row in enumerate(film)]
    assert divided(folder, dishes, "csv").rows == 120


def test_the_chosen_column_may_be_called_item(folder: Path) -> None:
    rows = [slate | {"item": click} for slate, click in zip(SLATES, CLICKS, strict=True)]
    table = divided(folder, rows)
    assert [column.name for column in table.columns] == [
        *("user", "ts", "shown_request", "shown_item", "click")
    ]
    assert table["click"].values[:6].to_list() == [*["false"] * 4, "true", "false"]


def test_lists_of_structs_without_texts_and_places_are_not_read(folder: Path) -> None:
    hours = [{"open": 9, "close": 17}, {"open": 10, "close": 16}]
    rows = [{"shop_id": n, "hours": hours, "tags": list[str]()} for n in range(5)]
    table = divided(folder, rows)
    assert table["tags"].kind == "missing"
    assert table.rows == 5
    assert table["hours"].kind == "nested"


def test_structs_become_columns_and_lists_of_structs_names(folder: Path) -> None:
    rows = [
        {
            "shop_id": n,
            "info": {"name": f"Shop {n}", "price": {"mean": n}, "info_page": "a"},
            "dishes": [{"name": "soup", "item": 3}, {"name": "pie", "item": 4}],
        }
        for n in range(5)
    ]
    table = divided(folder, rows)
    assert [column.name for column in table.columns][1:] == [
        "info_name",
        "info_price_mean",
        "info_page",
        "dishes",
    ]
    assert table["dishes"].values[0] == "soup, pie"


def test_rows_in_a_list_have_a_place_that_the_table_lacks(folder: Path) -> None:
    """Of requests, with a nested user; an article's own list of topics holds no rows."""
    rows = [
        {
            "request_id": n,
            "user": {"id": f"u{n % 7}"},
            "candidates": [
                {"shop_id": one, "clicked": k == 1} for k, one in enumerate(slate["shown"])
            ],
        }
        for n, slate in enumerate(SLATES)
    ]
    table = divided(folder, rows)
    assert table.rows == 120
    assert table["user_id"].values[:4].to_list() == ["u0", "u0", "u0", "u1"]
    (folder / "log.jsonl").unlink()
    pages = [
        {"userId": n, "title": f"News {n}", "topics": [{"item": "a", "weight": 1}]}
        for n in range(9)
    ]
    assert divided(folder, pages * 2)["topics"].values[0] == "a"


def test_tables_with_several_rows_of_a_place_become_lists(folder: Path) -> None:
    tables = huts()
    cuisines = [
        (f"h{n}", cuisine) for n in range(20) for cuisine in ["soups", "cakes"][: 1 + n % 2]
    ]
    tables["cuisines"] = pl.DataFrame(cuisines, schema=["hut_id", "cuisine"], orient="row")
    openings = [(f"h{n}", f"2024-04-0{day}") for n in range(20) for day in (1, 2)]
    dishes = [
        (f"d{n}", f"h{n // 2}", f"Hut soup {n % 9}", 4 + n, ["warm", "cold"][n % 3 // 2], n % 5)
        for n in range(40)
    ]
    menu = ["dish_id", "hut_id", "title", "price", "category", "rating"]
    tables["dishes"] = pl.DataFrame(dishes, schema=menu, orient="row")
    tables["openings"] = pl.DataFrame(openings, schema=["hut_id", "day"], orient="row")
    text, config = written(folder, tables)
    assert "string_agg(DISTINCT cuisine, ', ' ORDER BY cuisine) AS cuisine" in text
    assert "FROM openings" not in text
    assert any("cuisine cakes, soups" in one for one in texts(config))
    assert any("dishes title Hut soup 2, Hut soup 3" in one for one in texts(config))


def test_an_integer_id_and_a_title_are_a_name(folder: Path) -> None:
    tables = huts(hut_id=pl.col("hut_id").str.tail(-1).cast(pl.Int64))
    tables["huts"] = tables["huts"].with_columns(pl.col("hut_id").str.tail(-1).cast(pl.Int64))
    written(folder, tables)
    assert "Old A-Hut" in texts(drafted(folder)[1])
