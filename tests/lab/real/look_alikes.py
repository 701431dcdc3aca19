"""Small files in the layout of the real ones, with invented rows; none is from a data set."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import polars as pl

from larr_lab.real import frappe, situnes, unimobile

PEOPLE = 12
APPS = 40
TASKS = 60
SONGS = 30
FILMS = 60


def write_canteen(folder: Path) -> None:
    """Writes `canteen.csv.gz`: each card visits on each of 11 days and takes one of three dishes.

    Dishes with an even number have meat; cards with an even number take those.
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


def write_frappe(folder: Path) -> None:
    """Writes `Mobile_Frappe.zip`: each person uses two of 40 apps on each day of a week."""
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
        for day, name in enumerate(frappe.WEEKDAYS)
        for which in range(2)
    ]
    with zipfile.ZipFile(folder / "Mobile_Frappe.zip", "w") as archive:
        for name, rows in (("frappe", uses), ("meta", apps)):
            content = pl.DataFrame(rows).write_csv(separator="\t", quote_style="never")
            archive.writestr(f"{frappe.MEMBERS}/{name}.csv", content)


def write_unimobile(folder: Path) -> None:
    """Writes `unimobile/`: three people ask about each of 60 tasks; a task names its app."""
    tasks = [
        {"TaskId": number, "TaskDesc": f"Find thing {number}, on {unimobile.APPS[number % 19]}."}
        for number in range(TASKS)
    ]
    queries = [
        {
            "index": 3 * task + which,
            "TaskId": task,
            "WorkerId": (task + which) % PEOPLE,
            "Query": f"thing {task}",
            "App0": unimobile.APPS[task % 19].lower(),
            "App1": "an app that is not listed" if which else None,
        }
        | {f"App{number}": None for number in range(2, 9)}
        for task in range(TASKS)
        for which in range(3)
    ]
    (folder / "unimobile").mkdir()
    pl.DataFrame(tasks).write_csv(folder / "unimobile" / "tasks.csv")
    pl.DataFrame(queries).write_csv(folder / "unimobile" / "mobile_queries.csv")


def write_situnes(folder: Path) -> None:
    """Writes `SiTunes_dataset/`: each person hears ten songs, the split's number gives ratings."""
    songs = [
        {"item_id": song, "key": 2.0, "general_genre": ("rock", "jazz")[song % 2]}
        | dict.fromkeys(situnes.SOUND, song / 10)
        for song in range(SONGS)
    ]
    names = [
        {"i_id_c": float(song), "music": f"Song {song}", "singer": f"Singer {song % 3}"}
        for song in range(1, SONGS)
    ]
    music = folder / "SiTunes_dataset" / situnes.SONGS
    music.mkdir(parents=True)
    pl.DataFrame(songs).write_csv(music / "music_info.csv")
    pl.DataFrame(names).write_csv(music / "music_info_withname.csv")
    for setting in (2, 3):
        for split in range(situnes.FIRST_SPLIT, situnes.FIRST_SPLIT + situnes.NUMBER_OF_SPLITS):
            name = f"setting{setting}-{split}"
            target = folder / "SiTunes_dataset" / situnes.SPLITS / name
            target.mkdir(parents=True)
            for part, heard in (("train", range(7)), ("valid", [7]), ("test", range(8, 10))):
                rows = [
                    _heard(person, number, split) for person in range(PEOPLE) for number in heard
                ]
                _write_atomic(target / f"{name}.{part}.inter", rows)


def _heard(person: int, number: int, split: int) -> dict[str, object]:
    """Returns a rated song of a person, at noon in China."""
    words = dict.fromkeys((*situnes.PERIODS, *situnes.WEATHERS, *situnes.ACTIVITIES), 0)
    return (
        {
            "user_id": person,
            "item_id": (person + number) % SONGS,
            "rating": (person + number + split) % 5 + 1,
            "timestamp": 1_600_056_000 + 86_400 * number,
        }
        | words
        | {"afternoon": 1, ("weather_sunny", "weather_rainy")[number % 2]: 1, "walking": person % 2}
        | dict.fromkeys(situnes.NUMBERS, number / 10)
    )


def write_films(folder: Path) -> None:
    """Writes `ml-100k/`: each person rates eight films on each of 15 days, two a second."""
    target = folder / "ml-100k"
    target.mkdir()
    genres = ("Comedy Drama", "Action")
    films = [
        {
            "item_id": film,
            "movie_title": f'Film "{film}"',
            "release_year": 1990,
            "class": genres[film % 2],
        }
        for film in range(FILMS)
    ]
    people = [
        {"user_id": person, "age": 20 + 3 * person, "gender": "F", "occupation": "baker"}
        for person in range(PEOPLE)
    ]
    ratings = [
        {
            "user_id": person,
            "item_id": (person + 8 * (day % 5) + number) % FILMS,
            "rating": (person + number) % 5 + 1,
            "timestamp": 880_000_000 + 5 * 86_400 * day + number // 2,
        }
        for person in range(PEOPLE)
        for day in range(15)
        for number in range(8)
    ]
    _write_atomic(target / "ml-100k.item", films)
    _write_atomic(target / "ml-100k.user", people)
    _write_atomic(target / "ml-100k.inter", ratings)


def _write_atomic(path: Path, rows: list[dict[str, object]]) -> None:
    """Writes a file as RecBole's are: separated by tabs, each column with a type."""
    table = pl.DataFrame(rows).rename(lambda column: f"{column}:token")
    table.write_csv(path, separator="\t", quote_style="never")
