"""`larr real`: compares rankers on public data sets, each with several seeds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from larr import artifacts
from larr import run as runner
from larr.cli import for_seeds
from larr.config import Config
from larr.config.rankers import BEST
from larr.errors import ConfigError
from larr.evaluation import plots
from larr.evaluation.findings import LARR, RIVALS, Json, slice_metrics
from larr.evaluation.report import render
from larr.metrics import TASKS, Metric, task_metrics
from larr.progress import console

RESULTS, PAGE = "real.json", "real.html"
SEE = "docs/experiments.md links to the downloads"


def real(configs: dict[str, Config], folder: Path, seeds: str, output: Path) -> None:
    """Runs the configurations whose files are in the folder, and writes `output/`.

    Raises ConfigError if the folder has the files of none.
    """
    runs, missing = {}, []
    for name, config in configs.items():
        runs[name] = for_seeds(compared(config, folder, output / name), seeds)
        absent = [path for run in runs[name] for path in run.sources if not path.exists()]
        if absent:
            missing.append(f"{name} ({absent[0]} does not exist)")
            del runs[name]
    if not runs:
        raise ConfigError(f"no data set found in {folder}: {'; '.join(missing)}; {SEE}")
    for data_set in missing:
        console.print(f"  skipped: {data_set}; {SEE}", soft_wrap=True)
    reports = {}
    for name, seed_runs in runs.items():
        console.rule(name)
        reports[name] = runner.run_seeds(seed_runs, output / name)
    content = results(reports)
    artifacts.write_json(output / RESULTS, content)
    page = {"results": content, "rivals": RIVALS, "tables": list(_tables(content))}
    artifacts.write_text(output / PAGE, render("real.html.j2", "larr_lab.studies", **page))
    console.print(f"Read {output / PAGE}")


def compared(config: Config, folder: Path, output: Path) -> Config:
    """Returns the configuration with its files in the folder, and the pairs to compare."""
    others = [name for name in config.align.models if name not in RIVALS]
    settings = {
        "output": output,
        "dataset.folder": folder / config.dataset.folder,
        "evaluate.gains": [*config.evaluate.gains, *product(others, RIVALS)],
    }
    return config.with_settings(settings)


def results(reports: dict[str, Json]) -> Json:
    """Returns the content of `real.json` from the pooled report of each data set."""
    metrics, main = task_metrics([TASKS["click"]]), slice_metrics()[0]
    return {
        "seeds": next(iter(reports.values()))["seeds"],
        "sizes": {
            name: report["sizes"]["all"] | {"train_rows": report["train_rows"]}
            for name, report in reports.items()
        },
        "metrics": {
            key: {name: _beside_rivals(report, key, metric) for name, report in reports.items()}
            for key, metric in metrics.items()
        },
        "cold_places": {
            name: _beside_rivals(report["cold"]["places"], main, metrics[main])
            for name, report in reports.items()
        },
    }


def _beside_rivals(part: Json, key: str, metric: Metric) -> Json:
    """Returns a metric of all rankers, the best rival, and the gains over it."""
    rankers = {name: values[key] for name, values in part["models"].items() if values[key]}
    sign = 1 if metric.higher_is_better else -1
    known = [name for name in RIVALS if name in rankers]
    best = max(known, key=lambda name: sign * rankers[name]["mean"], default=None)
    gains = {
        name: part["gains"][f"{name}_over_{best}"][key]
        for name in rankers
        if best and name not in RIVALS
    }
    return {"rankers": rankers, "best_rival": best, "gains": gains}


def _tables(content: Json) -> Iterator[Json]:
    """Yields the title, rankers, rows and plot of each metric."""
    metrics = task_metrics([TASKS["click"]])
    tables = [(metric, metric.title, content["metrics"][key]) for key, metric in metrics.items()]
    main = metrics[slice_metrics()[0]]
    tables.append((main, f"{main.title}, cold places", content["cold_places"]))
    for metric, title, by_name in tables:
        rows = {name: row for name, row in by_name.items() if row["rankers"]}
        rankers = dict.fromkeys(name for row in rows.values() for name in row["rankers"])
        subject = BEST if BEST in rankers else LARR
        gains = ((name, row["gains"].get(subject)) for name, row in rows.items())
        yield {
            "title": title if metric.higher_is_better else f"{title} (lower is better)",
            "rankers": list(rankers),
            "rows": rows,
            "subject": subject,
            "plot": plots.forest(title, gains, metric.higher_is_better),
        }
