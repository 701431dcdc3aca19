"""Pictures of a simulated country for docs/city.md.

Run as `python scripts/city_pictures.py FOLDER_OF_TABLES DOCS_FOLDER`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from larr_lab import knowledge

BLUE, ORANGE, GREY = "#2f6f9f", "#d9822b", "#8a8f98"
HOUR = pl.col("time").dt.hour()
MEALS = {
    "breakfast": (5, 10),
    "lunch": (10, 14),
    "afternoon": (14, 17),
    "dinner": (17, 20),
    "late night": (20, 29),
}
"""Meal -> first and last hour, counted on past midnight."""


def main(tables: Path, docs: Path) -> None:
    """Draws every picture into `docs/images`."""
    mpl.use("Agg")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    log = read_log(tables)
    (docs / "images").mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        draw(axes, log)
        figure.savefig(docs / "images" / f"city_{name}.png", dpi=130, metadata={"Software": None})
        plt.close(figure)


def read_log(tables: Path) -> pl.DataFrame:
    """Returns the impressions with the place's category, kitchen and share of cold dishes."""
    places = pl.read_parquet(tables / "places.parquet")
    names = pl.concat_list("dish", pl.col("also").str.split("|"))
    dishes = knowledge.dishes().select(names.alias("dish"), "temperature", origin="region")
    menus = (
        places.select("poi_id", dish=pl.col("menu").str.split(", "))
        .explode("dish")
        .join(dishes.explode("dish").unique("dish", maintain_order=True), on="dish")
        .group_by("poi_id")
        .agg(
            kitchen=pl.col("origin").mode().sort().first(),
            cold=(pl.col("temperature") == "cold").mean(),
        )
    )
    log = pl.read_parquet(tables / "impressions" / "*.parquet")
    places = places.select("poi_id", "category").join(menus, on="poi_id", how="left")
    return log.join(places, on="poi_id", how="left", maintain_order="left")


def hours(axes: Axes, log: pl.DataFrame) -> None:
    """Requests and orders by hour."""
    count = log.group_by(HOUR.alias("hour")).agg(
        requests=pl.col("request_id").n_unique(), orders=pl.col("order").sum()
    )
    for column, shift, colour in (("requests", -0.2, BLUE), ("orders", 0.2, ORANGE)):
        axes.bar(count["hour"] + shift, count[column] / count[column].sum(), 0.4, color=colour)
    axes.legend(["requests", "orders"], frameon=False)
    axes.set(xlabel="hour of the day", ylabel="share", xticks=range(0, 24, 2))
    axes.set_title("When people ask and order")


def weather(axes: Axes, log: pl.DataFrame) -> None:
    """Click rate at lunch and dinner of menus mostly cold or not at all, by temperature."""
    labels = ["< 0", "0-5", "5-10", "10-15", "15-20", "20-25", "> 25"]
    band = (pl.col("temperature_c") / 5).floor().clip(-1, 5).cast(pl.Int64) + 1
    log = log.filter(HOUR.is_in([11, 12, 13, 17, 18, 19]))
    kinds = {"mostly cold dishes": pl.col("cold") > 0.5, "no cold dish": pl.col("cold") == 0}
    for (label, chosen), colour in zip(kinds.items(), (BLUE, ORANGE), strict=True):
        x, y = _click_rate(log.filter(chosen), band, "probability_click")
        axes.plot(x, y, "o-", color=colour, label=label)
    axes.set_xticks(range(len(labels)), labels)
    axes.legend(frameon=False)
    axes.set(xlabel="temperature, C", ylabel="mean click probability, %", ylim=(0, None))
    axes.set_title("Weather and the temperature of the dishes, at lunch and dinner")


def regions(axes: Axes, log: pl.DataFrame) -> None:
    """Where clicks are made, and which kitchen they go to, over what is shown there."""
    names = [name for name in knowledge.regions()["region"] if name in set(log["region"])]
    share = (
        log.filter(pl.col("kitchen").is_in(names))
        .group_by("region", "kitchen")
        .agg(shown=pl.len(), clicks=pl.col("probability_click").sum())
    )
    clicked, shown = (
        pl.col(name) / pl.col(name).sum().over("region") for name in ("clicks", "shown")
    )
    lift = share.with_columns(lift=(clicked / shown).log(2)).filter(pl.col("shown") >= 500)
    cells_GG = np.full((len(names), len(names)), np.nan)
    for region, kitchen, value in lift.select("region", "kitchen", "lift").iter_rows():
        cells_GG[names.index(region), names.index(kitchen)] = value
    image = axes.imshow(cells_GG, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axes.figure.colorbar(image, ax=axes, label="log2 of clicks over impressions")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=6)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set(xlabel="kitchen of the place", ylabel="region of the request")
    axes.set_title("Which kitchens are liked where")


def travellers(axes: Axes, log: pl.DataFrame) -> None:
    """Click rate of local kitchens and others, for people at home and travellers."""
    is_local = pl.col("kitchen") == pl.col("region")
    for kind, shift, colour in ((is_local, -0.18, ORANGE), (~is_local, 0.18, BLUE)):
        x, y = _click_rate(log.filter(kind), pl.col("away").cast(pl.Int64), "probability_click")
        axes.bar(x + shift, y, 0.34, color=colour)
    axes.set_xticks(range(2), ["at home", "travelling"])
    axes.legend(["local kitchen", "another kitchen"], frameon=False, loc="upper left")
    axes.set(ylabel="mean click probability, %")
    axes.set_title("Travellers and the local kitchen")


def popularity(axes: Axes, log: pl.DataFrame) -> None:
    """Impressions of a place by its rank."""
    count_P = log.group_by("poi_id").len()["len"].sort(descending=True).to_numpy()
    axes.loglog(np.arange(1, count_P.size + 1), count_P, color=BLUE)
    tenth = count_P[: count_P.size // 10].sum() / count_P.sum()
    axes.axvline(count_P.size / 10, color=GREY, linestyle=":")
    axes.text(count_P.size / 11, count_P.min() * 1.5, f"{tenth:.0%} left of here ", ha="right")
    axes.set(xlabel="rank of the place", ylabel="impressions")
    axes.set_title("A long tail of places")


def positions(axes: Axes, log: pl.DataFrame) -> None:
    """Click rate by position, observed and true."""
    x, observed = _click_rate(log, pl.col("position"), "click")
    axes.bar(x, observed, color=BLUE, label="observed")
    x, true = _click_rate(log, pl.col("position"), "probability_click")
    axes.plot(x, true, "o", color=ORANGE, label="true")
    axes.legend(frameon=False)
    axes.set(xlabel="position", ylabel="click rate, %", xticks=x.to_list())
    axes.set_title("Clicks by position")


def distances(axes: Axes, log: pl.DataFrame) -> None:
    """Click rate by distance, in dry and in wet weather."""
    near = log.filter(pl.col("distance_km") < 7)
    wet = pl.col("weather").is_in(["rain", "heavy rain", "snow"])
    band = (pl.col("distance_km") * 2).floor() / 2 + 0.25
    for label, chosen, colour in (("dry", ~wet, ORANGE), ("rain or snow", wet, BLUE)):
        x, y = _click_rate(near.filter(chosen), band, "click")
        axes.plot(x, y, "o-", color=colour, label=label)
    axes.legend(frameon=False)
    axes.set(xlabel="distance by road, km", ylabel="click rate, %", ylim=(0, None))
    axes.set_title("Clicks by distance")


def categories(axes: Axes, log: pl.DataFrame) -> None:
    """What is clicked at each meal, by category."""
    meal_of = {hour % 24: meal for meal, (a, b) in MEALS.items() for hour in range(a, b)}
    meal = HOUR.replace_strict(meal_of, return_dtype=pl.String)
    clicks = log.filter("click").group_by(meal.alias("meal"), "category").len()
    table = clicks.pivot("meal", index="category", values="len").fill_null(0)
    table = table.with_columns(pl.sum_horizontal(*MEALS).alias("all")).sort("all").tail(12)
    cells_TM = table.select(*MEALS).to_numpy()
    cells_TM = cells_TM / cells_TM.sum(axis=0)
    axes.imshow(cells_TM, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(MEALS)), MEALS)
    axes.set_yticks(range(table.height), table["category"].to_list())
    for (row, column), value in np.ndenumerate(cells_TM):
        colour = "white" if value > 0.22 else "black"
        axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_title("Share of the clicks of a meal")


def _click_rate(log: pl.DataFrame, by: pl.Expr, column: str) -> tuple[pl.Series, pl.Series]:
    """Returns the values of `by` in order and the mean of a column at each, in %."""
    rate = log.group_by(by.alias("by")).agg(pl.col(column).mean() * 100).sort("by")
    return rate["by"], rate[column]


PICTURES: dict[str, Callable[[Axes, pl.DataFrame], None]] = {
    "hours": hours,
    "weather": weather,
    "regions": regions,
    "travellers": travellers,
    "popularity": popularity,
    "positions": positions,
    "distances": distances,
    "meals": categories,
}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
