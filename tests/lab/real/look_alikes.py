"""Small files in the layout of real data sets, with invented rows."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from larr.settings import load_config
from tests.conftest import ROOT

PEOPLE = 12
APPS = 40
TASKS = 60
SONGS = 30
FILMS = 60
COUPONS = 6
"""Answers of each person."""
NEWS = 30
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
LISTED_APPS = ("Google Search", "Gmail", "Facebook", "Google Maps", "YouTube", "Amazon", "Netflix")
SPLITS = range(101, 111)
"""The seeds of SiTunes."""
Row = dict[str, object]


def _write(path: Path, rows: Iterable[Row], separator: str = ",", *, header: bool = True) -> None:
    """Writes a CSV file, without quotes if it is not separated by commas."""
    path.parent.mkdir(parents=True, exist_ok=True)
    style = "necessary" if separator == "," else "never"
    table = pl.DataFrame([*rows])
    if len(separator) == 1:
        table.write_csv(path, separator=separator, include_header=header, quote_style=style)
    else:
        path.write_text("".join(separator.join(map(str, row)) + "\n" for row in table.rows()))


def write_canteen(folder: Path) -> None:
    """Each card visits on each of 11 days and chooses one of three dishes.

    Dishes with an even number have meat; cards with an even number choose those.
    """
    rows = [
        {
            "visit": f"{day}-{card}",
            "day": day,
            "date": f"2020-01-{day:02}",
            "clock": f"1{card % 3 + 1}:30",
            "card": card,
            "group": "staff" if card % 3 else "guest",
            "counter": "blue",
            "where": "eat in",
            "label": "CO2Neutral" if day % 2 else "",
            "dish": f"stew {number}, with bread",
            "kind": "no meat" if number % 2 else "meat or fish",
            "bought": int(number == 3 * day + (card + day) % 2),
        }
        for day in range(1, 12)
        for card in range(PEOPLE)
        for number in range(3 * day, 3 * day + 3)
    ]
    content = pl.DataFrame(rows).write_csv().encode()
    (folder / "canteen.csv.gz").write_bytes(gzip.compress(content))


def write_coupon(folder: Path) -> None:
    """Each person answers six times in a row; neighbours have the same profile."""
    kinds = ("Bar", "Coffee House", "Carry out & Take away", "Restaurant(<20)", "Restaurant(20-50)")
    profile = ("age", "maritalStatus", "education", "occupation", "income")
    habits = ("Bar", "CoffeeHouse", "CarryAway", "RestaurantLessThan20", "Restaurant20To50")
    rows = [
        {
            "destination": ("Home", "Work", "No Urgent Place")[answer % 3],
            "passanger": ("Alone", "Friend(s)")[person % 2],
            "weather": ("Sunny", "Rainy")[answer % 2],
            "temperature": (30, 55, 80)[answer % 3],
            "time": ("7AM", "10AM", "2PM", "6PM", "10PM")[answer % 5],
            "coupon": kinds[(person + answer) % 5],
            "expiration": ("2h", "1d")[answer % 2],
            "gender": ("Female", "Male")[person % 2],
            "has_children": person % 2,
            "toCoupon_GEQ15min": int(answer > 1),
            "toCoupon_GEQ25min": int(answer > 3),
            "direction_same": int(answer % 2),
            "Y": int((person + answer) % 3 == 0),
        }
        | {name: f"{name} {person // 2 % 3}" for name in profile}
        | dict.fromkeys(habits, ("never", "less1", "1~3", "4~8", "gt8")[person % 5])
        for person in range(PEOPLE)
        for answer in range(COUPONS)
    ]
    _write(folder / "coupon.csv", rows)


def write_frappe(folder: Path) -> None:
    """Each person uses two of 40 apps per day for a week."""
    apps = [
        {
            "item": app,
            "category": "unknown" if app % 9 == 0 else f"kind {app % 4}",
            "downloads": "1,000 - 5,000",
            "developer": f"maker {app % 5}",
            "language": "en",
            "description": f'An app to do "thing {app}".',
            "name": "unknown" if app % 9 == 0 else f"Thing {app}",
            "price": "Free",
            "rating": "4.5",
        }
        for app in range(APPS)
    ]
    uses = [
        {
            "user": person,
            "item": (7 * person + which + day // 5) % APPS,
            "cnt": 3,
            "daytime": ("morning", "night")[person % 2],
            "weekday": name,
            "isweekend": "weekend" if day > 4 else "workday",
            "homework": ("home", "unknown")[day % 2],
            "weather": ("sunny", "unknown")[person % 2],
            "country": "Spain",
            "city": 0,
        }
        for person in range(PEOPLE)
        for day, name in enumerate(WEEKDAYS)
        for which in range(2)
    ]
    _write(folder / "frappe" / "frappe.csv", uses, "\t")
    _write(folder / "frappe" / "meta.csv", apps, "\t")


def write_unimobile(folder: Path) -> None:
    """Three people ask about each of 60 tasks; a task names its app."""
    tasks = [
        {"TaskId": number, "TaskDesc": f"Find thing {number}, on {LISTED_APPS[number % 7]}."}
        for number in range(TASKS)
    ]
    queries = [
        {
            "index": 3 * task + which,
            "TaskId": task,
            "WorkerId": (task + which) % PEOPLE,
            "Query": f"thing {task}",
            "App0": LISTED_APPS[task % 7].lower(),
            "App1": "an app that is not listed" if which else None,
        }
        | {f"App{number}": None for number in range(2, 9)}
        for task in range(TASKS)
        for which in range(3)
    ]
    _write(folder / "tasks.csv", tasks)
    _write(folder / "mobile_queries.csv", queries)


def write_situnes(folder: Path) -> None:
    """Each person hears ten songs, the split's number gives ratings."""
    sound = ("popularity", "loudness", "danceability", "energy", "speechiness", "acousticness")
    sound += ("instrumentalness", "valence", "tempo", "duration")
    songs = [
        {"item_id": song, "key": 2.0, "general_genre": ("rock", "jazz")[song % 2]}
        | dict.fromkeys(sound, song / 10)
        for song in range(SONGS)
    ]
    names = [
        {"i_id_c": float(song), "music": f"Song {song}", "singer": f"Singer {song % 3}"}
        for song in range(1, SONGS)
    ]
    _write(folder / "SiTunes" / "music_metadata" / "music_info.csv", songs)
    _write(folder / "SiTunes" / "music_metadata" / "music_info_withname.csv", names)
    columns = load_config(ROOT / "configs" / "situnes3.toml").dataset.files["test"].columns
    for setting in (2, 3):
        for split in SPLITS:
            name = f"setting{setting}-{split}"
            target = folder / "Experiments" / "Situational_recommendation" / "dataset" / name
            for part, heard in (("train", range(7)), ("valid", [7]), ("test", range(8, 10))):
                rows = [
                    dict.fromkeys(columns, number / 10) | _heard(person, number, split)
                    for person in range(PEOPLE)
                    for number in heard
                ]
                typed = [{f"{key}:token": value for key, value in row.items()} for row in rows]
                _write(target / f"{name}.{part}.inter", typed, "\t")


def _heard(person: int, number: int, split: int) -> Row:
    """Returns a rated song of a person, at noon in China."""
    row: Row = {
        "user_id": person,
        "item_id": (person + number) % SONGS,
        "rating": (person + number + split) % 5 + 1,
        "timestamp": 1_600_056_000 + 86_400 * number,
    }
    row |= dict.fromkeys(("morning", "evening", "still", "act2still", "sleeping", "running"), 0)
    row |= dict.fromkeys(("weather_sunny", "weather_cloudy", "weather_rainy"), 0)
    weather = ("weather_sunny", "weather_rainy")[number % 2]
    return row | {"afternoon": 1, weather: 1, "walking": person % 2}


def _ratings() -> list[Row]:
    """Returns eight films that each person rates on each of 15 days, two a second."""
    return [
        {
            "user": person,
            "film": (person + 8 * (day % 5) + number) % FILMS,
            "stars": (person + number) % 5 + 1,
            "seconds": 880_000_000 + 5 * 86_400 * day + number // 2,
        }
        for person in range(PEOPLE)
        for day in range(15)
        for number in range(8)
    ]


def write_films(folder: Path) -> None:
    """Films with an even number are comedies and dramas, the others action."""
    genres = load_config(ROOT / "configs" / "films.toml").dataset.files["films"].columns[5:]
    films = [
        {"id": film, "title": f'Café "{film}", The (1990)', "release": "01-Jan-1990"}
        | {"video": None, "address": "http://example.com"}
        | dict.fromkeys(genres, 0)
        | ({"Action": 1} if film % 2 else {"Comedy": 1, "Drama": 1})
        for film in range(FILMS)
    ]
    people = [
        {"id": person, "age": 20 + 3 * person, "gender": "F", "occupation": "baker", "zip": "0123"}
        for person in range(PEOPLE)
    ]
    _write(folder / "u.data", _ratings(), "\t", header=False)
    _write(folder / "u.user", people, "|", header=False)
    _write(folder / "u.item", films, "|", header=False)
    text = (folder / "u.item").read_text(encoding="utf-8")
    (folder / "u.item").write_text(text, encoding="latin-1")


def write_films_1m(folder: Path) -> None:
    """The same ratings in the layout of MovieLens 1M."""
    films = [
        {"id": film, "title": f"Film {film} (1990)", "genres": ("Comedy|Drama", "Action")[film % 2]}
        for film in range(FILMS)
    ]
    people = [
        {"id": person, "gender": "F", "age": 25, "occupation": person % 21, "zip": "0123"}
        for person in range(PEOPLE)
    ]
    _write(folder / "ratings.dat", _ratings(), "::")
    _write(folder / "movies.dat", films, "::")
    _write(folder / "users.dat", people, "::")


def write_foursquare(folder: Path) -> None:
    """Each person visits one of 20 venues of two neighbourhoods at each noon of 20 days."""
    start = datetime(2012, 4, 3, 16)
    rows = [
        {
            "user": person,
            "venue": f"v{(person + day) % 20}",
            "category_id": "4bf5",
            "category": ("Café", "Bar")[(person + day) % 2],
            "lat": 40.71 + 0.1 * ((person + day) % 20 // 10),
            "lon": -74.01,
            "offset": -240,
            "utc": (start + timedelta(days=day, minutes=person)).strftime("%a %b %d %X +0000 %Y"),
        }
        for day in range(20)
        for person in range(PEOPLE)
    ]
    path = folder / "dataset_TSMC2014_NYC.txt"
    _write(path, rows, "\t", header=False)
    path.write_text(path.read_text(encoding="utf-8"), encoding="latin-1")


def write_delivery_hero(folder: Path) -> None:
    """Each person orders two products from one of eight vendors on each of 20 days."""
    vendors = [
        {"": number, "vendor_id": f"v{number}", "chain_id": None, "geohash": f"w21z{number % 2}"}
        | {"primary_cuisine": ("pizza", "chinese")[number % 2]}
        for number in range(8)
    ]
    products = [
        {"": number, "vendor_id": f"v{number // 3}", "product_id": f"p{number}"}
        | {"name": f"dish {number}", "unit_price": 0.1 * number}
        for number in range(24)
    ]
    _write(folder / "vendors_sg.txt", vendors)
    _write(folder / "products_sg.txt", products)
    for part, days in (("train", range(15)), ("test", range(15, 20))):
        rows = [
            {
                "": number,
                "customer_id": f"c{person}",
                "geohash": "w21zu",
                "order_id": f"o{day}-{person}",
                "vendor_id": f"v{(person + day) % 8}",
                "product_id": f"p{3 * ((person + day) % 8) + product}",
                "day_of_week": day % 7,
                "order_time": f"1{person % 3 + 1}:30:00",
                "order_day": f"{day} days",
            }
            for day in days
            for number, person in enumerate(range(PEOPLE))
            for product in range(2)
        ]
        _write(folder / f"orders_sg_{part}.txt", rows)


def write_eleme(folder: Path) -> None:
    """Each person sees three dishes at noon of each of 3 days, and clicks the cheapest food."""
    columns = load_config(ROOT / "configs" / "eleme.toml").dataset.files["shown"].columns
    for day in range(1, 4):
        rows = [
            dict.fromkeys(columns, "7")
            | {
                "label": int(dish % 3 == 0),
                "user_id": person,
                "shop_id": dish // 2,
                "item_id": dish,
                "merge_standard_food_id": dish % 3,
                "shop_id_list": "1;2;3",
                "rank_7": 0.1 * dish,
                "times": "4501",
                "hours": 12,
                "geohash12": "wtw3sjq6",
            }
            for person in range(PEOPLE)
            for dish in range(person % 6, person % 6 + 3)
        ]
        _write(folder / f"D{day}_0.csv", rows, header=False)


def write_mind(folder: Path) -> None:
    """Each person gets a list of four news on each of 4 days, and reads the first, of sports."""
    news = [
        {"id": f"N{number}", "category": ("sports", "finance")[number % 2], "subcategory": "new"}
        | {"title": f'Title "{number}', "abstract": f"Abstract {number}", "address": "http://x.y"}
        | {"title_entities": f'[{{"Label": "Club {number}, FC"}}, {{"Label": "Cup"}}]'}
        | {"abstract_entities": '[{"Label": "A"}]'}
        for number in range(NEWS)
    ]
    for part, days in (("train", range(10, 13)), ("dev", [13])):
        rows = [
            {
                "id": 20 * day + person,
                "user": f"U{person}",
                "time": f"11/{day}/2019 {person + 1}:36:57 PM",
                "history": f"N{2 * person} N{2 * person + 1}" if person else None,
                "shown": " ".join(
                    f"N{number % NEWS}-{int(number % 4 == 0)}"
                    for number in range(4 * person, 4 * person + 4)
                ),
            }
            for day in days
            for person in range(PEOPLE - 1)
        ]
        target = folder / f"MINDsmall_{part}"
        _write(target / "behaviors.tsv", rows, "\t", header=False)
        _write(target / "news.tsv", news, "\t", header=False)


LAYOUTS = {
    "canteen": write_canteen,
    "coupon": write_coupon,
    "delivery_hero": write_delivery_hero,
    "eleme": write_eleme,
    "films": write_films,
    "films_1m": write_films_1m,
    "foursquare": write_foursquare,
    "frappe": write_frappe,
    "mind": write_mind,
    "situnes2": write_situnes,
    "situnes3": write_situnes,
    "unimobile": write_unimobile,
    "unimobile_final": write_unimobile,
}
"""The configuration of each layout, and what writes files in it to a folder."""
