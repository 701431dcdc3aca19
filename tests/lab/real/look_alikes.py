"""Small files in the layout of the real ones, with invented rows; none is from a data set."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import polars as pl

from larr_lab.real import frappe, unimobile

PEOPLE = 12
APPS = 40
TASKS = 60


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
    """Writes `unimobile/`: of each of 60 tasks three people ask; a task tells its app."""
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
