"""`larr init` and the layouts of public data sets."""

import gzip
import json
import re
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from larr.check import check
from larr.init.draft import init
from larr.settings import load_config
from tests.init.drafts import ITEMS, USERS, VISITS, visits, write

KINDS = ["lamp", "chair", "soup"]


def write_items(folder: Path, header: str = "item_id title kind") -> None:
    items = [(n, f"A fine {KINDS[n % 3]} number {n}", KINDS[n % 3]) for n in range(ITEMS)]
    write(folder / "items.csv", items, header)


def events_without_header(folder: Path) -> None:
    """As Taobao's UserBehavior: a page view is a click."""
    rows = []
    for time, user, item, liked in visits():
        seconds = 1_511_539_200 + int((time - datetime(2017, 11, 25)).total_seconds())
        rows.append((9000 + user, 100 + item, 70 + item % 4, "pv", seconds))
        rows += [(9000 + user, 100 + item, 70 + item % 4, "buy", seconds + 60)] * liked
    write(folder / "UserBehavior.csv", rows)


def events_as_codes(folder: Path) -> None:
    """As Tianchi's mobile log: 1 is a view, 3 the cart, 4 a purchase."""
    rows = []
    for time, user, item, liked in visits():
        codes = [1, *[3] * liked, *[4] * (liked and user % 3 == 0)]
        rows += [(user, item, code, f"{time:%Y-%m-%d %H}") for code in codes]
    write(folder / "log.csv", rows, "user_id item_id behavior_type time")


def events_of_lists_in_chinese(folder: Path) -> None:
    rows = []
    for time, user, item, liked in visits():
        rows.append((user, f"S{item}", "曝光", time))
        rows += [(user, f"S{item}", event, time) for event in ("点击", "下单")] * liked
    write(folder / "日志.csv", rows, "用户编号 店铺编号 行为 时间")
    places = [(f"S{n}", f"老王{KINDS[n % 3]}馆{n}", "川粤"[n % 2] + "菜") for n in range(ITEMS)]
    write(folder / "店铺.csv", places, "店铺编号 名称 菜系")


def nested_sessions(folder: Path) -> None:
    """As OTTO: a session and its events in each line of JSON."""
    sessions = {}
    for time, user, item, liked in visits():
        events = sessions.setdefault(f"{user}-{time.day}", [])
        some = ["clicks", *["orders"] * liked]
        events += [{"aid": item, "ts": int(time.timestamp() * 1000), "type": one} for one in some]
    lines = [{"session": n, "events": one} for n, one in enumerate(sessions.values())]
    with gzip.open(folder / "train.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def baskets(folder: Path) -> None:
    """As Instacart: users have orders, orders have products, in two parts; aisles have names."""
    orders = [(n, n % USERS, n % 7) for n in range(VISITS // 4)]
    write(folder / "orders.csv", orders, "order_id user_id order_dow")
    for part in ("prior", "train"):
        rows = [(o, (o + k * 4) % ITEMS, k) for o, *_ in orders for k in range(3)]
        rows = [row for row in rows if (row[0] % 5 == 0) == (part == "train")]
        write(folder / f"order_products__{part}.csv", rows, "order_id product_id add_to_cart_order")
    products = [(n, f"A fine thing of {n}", n % 3) for n in range(ITEMS)]
    write(folder / "products.csv", products, "product_id product_name aisle_id")
    write(folder / "aisles.csv", enumerate(KINDS), "aisle_id aisle")


def sessions_have_users(folder: Path) -> None:
    """Date and time of day in two columns, and names of categories in a separate table."""
    shown, sessions = [], []
    for n, (time, user, item, liked) in enumerate(visits()):
        sessions.append((f"s{n}", f"k{user}", time.date(), time.time()))
        shown += [(f"s{n}", (item + k) % ITEMS, k, int(liked and k == 1)) for k in range(3)]
    write(folder / "displays.csv", shown, "session_id product_id slot clicked")
    write(folder / "sessions.csv", sessions, "session_id customer start_date start_time")
    write(
        folder / "products.csv",
        [(n, f"Thing of {n}", n % 3) for n in range(ITEMS)],
        "id title category_id",
    )
    write(folder / "categories.csv", enumerate(KINDS), "id name")


def monthly_ratings(folder: Path) -> None:
    """Parts by month, and day-first dates."""
    for month in (9, 10):
        rows = [
            (user, item, 5 - n % 4, f"{1 + n * 28 // VISITS:02}/{month:02}/2005")
            for n, (_, user, item, _) in enumerate(visits())
            if n % 2 == month % 2
        ]
        write(folder / f"ratings_2005-{month:02}.csv", rows, "cust_id movie_id stars date")
    write_items(folder, "movie_id title genre")


def german_labels(folder: Path) -> None:
    words = ["nein", "ja"]
    rows = [
        (
            1000 + user,
            f"A{item}",
            f"{time:%d.%m.%Y}",
            f"{time:%H:%M}",
            words[liked],
            words[liked and n % 2],
        )
        for n, (time, user, item, liked) in enumerate(visits())
    ]
    header = "Kundennummer Artikelnummer Datum Uhrzeit geklickt gekauft"
    write(folder / "Anzeigen.csv", rows, header, ";")
    write(
        folder / "Artikel.csv",
        [(f"A{n}", f"Große {n}") for n in range(ITEMS)],
        "Artikelnummer Bezeichnung",
        ";",
    )


def slates(folder: Path) -> None:
    """As MIND: the items of a request and their labels in one cell, and no header."""
    rows = [
        (
            n,
            f"U{user}",
            f"{time:%m/%d/%Y %I:%M:%S %p}",
            " ".join(f"N{(item + k) % ITEMS}-{int(k == 1)}" for k in range(3)),
        )
        for n, (time, user, item, _) in enumerate(visits())
    ]
    write(folder / "behaviors.tsv", rows, separator="\t")
    write(
        folder / "news.tsv",
        [(f"N{n}", f"The news of {n}", "x", "x") for n in range(ITEMS)],
        separator="\t",
    )


def reviews_in_an_archive(folder: Path) -> None:
    """As ml-latest-small: a zip file with a folder, and a file that is not a table."""
    rows = [
        (user, item, [5, 2.5][n % 2], 1_511_539_200 + 2220 * n)
        for n, (_, user, item, _) in enumerate(visits())
    ]
    write(folder / "ratings.csv", rows, "userId movieId rating timestamp")
    write_items(folder, "movieId title genres")
    with zipfile.ZipFile(folder / "ml-small.zip", "w") as archive:
        for name in ("ratings.csv", "items.csv"):
            archive.write(folder / name, f"ml-small/{name}")
            (folder / name).unlink()
        archive.writestr("ml-small/README.txt", "no table")


def contexts_without_header(folder: Path) -> None:
    """As LDOS-CoMoDa: user, item, rating, age, sex, season, director; -1 is unknown."""
    rows = [
        (
            50 + user,
            900 + item,
            1 + n % 5,
            20 + user * 3,
            user % 2,
            n // 5 % 4,
            [-1, 7, 8][item // 5],
        )
        for n, (_, user, item, _) in enumerate(visits())
    ]
    write(folder / "log.csv", rows)


def reviews_of_users(folder: Path) -> None:
    """The ratings of a user, each with its product, in a line of JSON; most products occur once."""
    users: dict[int, list[dict[str, object]]] = {}
    for n, (time, user, item, _) in enumerate(visits()):
        number = item if n % 9 == 0 else 100 + n
        kind = KINDS[number // 7 % 3]
        product = {"title": f"The {kind} of {number}", "kind": kind, "price": 9.5 + number % 70}
        rating = {"asin": f"B{number}", "stars": 5 - n % 4, "product": product}
        review = {"review_title": "It is fine", "ms": int(time.timestamp() * 1000)}
        users.setdefault(user, []).append(rating | review)
    lines = [json.dumps({"reviewer": f"A{user}", "history": rows}) for user, rows in users.items()]
    for name, some in (("training", lines[4:]), ("validation", lines[2:4]), ("test", lines[:2])):
        (folder / f"{name}.jsonl").write_text("\n".join(some) + "\n")


def details_in_other_tables(folder: Path) -> None:
    """As RecBole's files: ratings with decimals; texts, properties and tags of films elsewhere."""
    rows = [
        (user, item, f"{1 + n * 37 % 901 / 100:.2f}", int(time.timestamp()))
        for n, (time, user, item, _) in enumerate(visits())
    ]
    write(folder / "log.inter", rows, "user_id:token film_id:token rating:float timestamp:float")
    films = [(n, f"Film {'ABCDEFGHIJKLMNO'[n]}", 1990 + n) for n in range(ITEMS)]
    write(folder / "films.csv", films, "id title year")
    write(folder / "texts.csv", [(n, f"A story of {n}") for n in range(ITEMS)], "id plot")
    properties = [
        (n, *pair)
        for n in range(ITEMS)
        for pair in [
            ("genre", "west"),
            ("genre", ["east", "north"][n % 2]),
            ("mood", ["dark", "light"][n % 2]),
        ]
    ]
    write(folder / "properties.csv", properties, "id property value")
    tags = [(n, tag) for n in range(ITEMS) for tag in ("old", ["odd", "even"][n % 2])]
    write(folder / "tags.csv", tags, "film_id tag")
    write(folder / "studios.csv", [(n, f"Studio {n}") for n in range(4)], "id studio")


LAYOUTS: dict[Callable[[Path], None], tuple[str, ...]] = {
    events_without_header: (
        'column_1 AS user_id, column_2 AS poi_id, column_5 AS time, "order"',
        "# CHECK: by column_4, pv, buy is a click, buy an order",
        "[dataset.negatives]",
    ),
    events_as_codes: (
        "bool_or(behavior_type IN ('4')) AS \"order\"",
        "# CHECK: by behavior_type, 1, 3, 4 is a click, 4 an order; guessed: views are the most",
    ),
    events_of_lists_in_chinese: (
        "bool_or(\"行为\" IN ('点击', '下单')) AS click",
        'coalesce("名称", "店铺编号") AS name',
        '"菜系"',
    ),
    nested_sessions: (
        "one.aid AS aid, one.ts AS ts, one.type AS type FROM (SELECT *, unnest(events) AS one",
        'session AS user_id, aid AS poi_id, ts AS time, "order"',
        "# CHECK: is session the user ID?",
    ),
    baskets: (
        "UNION ALL BY NAME SELECT * FROM order_products_train",
        "user_id, product_id AS poi_id, order_id AS request_id, order_dow",
        "aisles.aisle FROM products LEFT JOIN aisles ON products.aisle_id = aisles.aisle_id",
        "[dataset.negatives]",
    ),
    sessions_have_users: (
        "customer AS user_id, product_id AS poi_id, clicked AS click",
        "start_date || ' ' || start_time AS time, TRY_CAST(slot AS INTEGER) + 1 AS position, "
        "session_id AS request_id",
        "categories.name AS categories_name",
    ),
    monthly_ratings: (
        "cust_id AS user_id, movie_id AS poi_id, TRY_CAST(stars AS DOUBLE) >= 4 AS click",
        "strptime(date, '%d/%m/%Y') AS time",
        "coalesce(title, movie_id) AS name",
    ),
    german_labels: (
        "geklickt = 'ja' AS click, gekauft = 'ja' AS \"order\"",
        "strptime(Datum || ' ' || Uhrzeit, '%d.%m.%Y %H:%M') AS time",
        "coalesce(Bezeichnung, Artikelnummer) AS name",
    ),
    slates: (
        "column_2 AS user_id, item AS poi_id, click",
        "coalesce(column_2, column_1) AS name",
    ),
    reviews_in_an_archive: (
        "ml-small/ml-small/ratings.csv",
        "userId AS user_id, movieId AS poi_id, TRY_CAST(rating AS DOUBLE) >= 4 AS click",
    ),
    contexts_without_header: (
        "column_1 AS user_id, column_2 AS poi_id, TRY_CAST(column_3 AS DOUBLE) >= 4 AS click",
        "any_value(column_4) AS column_4, any_value(column_5) AS column_5 FROM log",
        "any_value(column_7) AS column_7 FROM log GROUP BY column_2",
    ),
    details_in_other_tables: (
        'TRY_CAST("rating:float" AS DOUBLE) >= 7.992 AS click',
        "films.*, properties.* EXCLUDE (id), tags.* EXCLUDE (film_id), texts.plot FROM films",
        "FILTER (property = 'mood') AS mood",
        "coalesce(title, id) AS name, year, genre, mood, tag, plot FROM films_completed",
        "studios: no column of the log matches its key",
    ),
    reviews_of_users: (
        "one.product.title AS product_title",
        "UNION ALL BY NAME SELECT *, 'train' AS split FROM validation_rows",
        "coalesce(any_value(product_title), asin) AS name",
        "any_value(product_price) AS product_price FROM rows_all GROUP BY asin",
    ),
}
"""Layout -> parts of its configuration."""


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_layouts_need_no_manual_edits(layout: Callable[[Path], None], tmp_path: Path) -> None:
    folder, path = tmp_path / "raw", tmp_path / "mine.toml"
    folder.mkdir()
    layout(folder)
    init(folder, path)
    text = " ".join(re.sub(r"  -- .*", "", path.read_text(encoding="utf-8")).split())
    for part in LAYOUTS[layout]:
        assert part in text
    check(load_config(path, [f"output={tmp_path}/out"]))
