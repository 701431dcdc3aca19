"""The readable report: a self-contained HTML page, and tables on the terminal.

Both render the content of report.json (`larr.evaluation.findings`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from larr.config.rankers import CONTROLS
from larr.evaluation import plots
from larr.evaluation.findings import BASE, CEILING, COLD_BELOW, LARR, SHUFFLED, Json, slice_metrics
from larr.html import environment
from larr.metrics import Metric, registered, task_metrics
from larr.progress import console, plain_table
from larr.sections import leaves

NAMES = {
    "wide_deep": "Wide&Deep",
    "deepfm": "DeepFM",
    "dcn": "DCN-v2",
    "din": "DIN",
    "lightgbm": "LightGBM",
    "p5": "P5",
    "ple": "PLE",
    "larr": "LARR",
    "larr_random": "LARR (random)",
    "larr_tfidf": "LARR (TF-IDF)",
    "larr_untuned": "LARR (untuned LM)",
    "larr_shuffled": "LARR (shuffled)",
    "larr_minilm": "LARR (MiniLM)",
    "best": "Best",
    "ceiling": "Ceiling",
    "pretrained": "LM after stage 1",
    "untuned": "Untuned LM",
    "tfidf": "TF-IDF",
}
"""A ranker or a source of vectors -> its title; a control is LARR with other vectors."""
PERPLEXITIES = {
    "perplexity_y": "perplexity of held-out places",
    "perplexity_y_text": "perplexity of held-out places, without the markers of keywords",
    "perplexity_general": "perplexity of general text",
}
RECALLS = {
    "user_to_place": "recall@10, from a user to the ordered place",
    "single_keyword": "recall@10, from one text of a user, mean",
    "place_halves": "recall@10, from half of a place's texts to the others",
    "single_place_keyword": "recall@10, from one text of a place, mean",
    "chance": "recall@10 of random guesses at the ordered place",
    "chance_nearby": "recall@10 of random guesses among the places nearby",
    "beats_nearby": "share of places nearby that rank below the ordered one",
}
CURVES = {
    "pretrain.loss": "Stage 1: loss",
    "contrast.loss": "Stage 2: loss and its three terms",
    "contrast.held_out_auc": "Stage 2: AUC of held-out orders, before tuning and at each check",
}
"""A figure of the language model -> its title."""
SHOWN_AS_STATES = ("pretrain.perplexity_", "contrast.recall_at_10.")
CALIBRATION = "ten bins of equal count; on the diagonal predicted and observed shares agree"
FEWEST_RECORDS = 3
FEWEST_USERS = 40
"""With fewer users the bootstrap interval is too narrow for a verdict."""
SHOWN_VALUES = 12
"""A plot shows the most frequent values of a column; the table below it shows all."""


def page(content: Json) -> str:
    """Returns the HTML page of a report."""
    metrics = task_metrics(content["tasks"])
    language_model = _language_model(content["language_model"])
    return render(
        "report.html.j2",
        report=content,
        registered=registered(),
        metrics=metrics,
        headline={name: metric for name, metric in metrics.items() if metric.headline},
        sliced={name: metrics[name] for name in slice_metrics()},
        sentences=list(sentences(content)),
        plots=_plots(content, metrics, language_model["curves"]),
        base=BASE,
        controls=[ranker for ranker in content["models"] if ranker in CONTROLS],
        cold_below=COLD_BELOW,
        main=_main_pair(content),
        verdict=_verdict(content)[0],
        language_model=language_model,
        total_seconds=sum(stage["seconds"] for stage in content["stages"].values()),
    )


def render(template: str, *packages: str, **context: Any) -> str:
    """Renders a template of larr or of other packages, with filters for figures."""
    templates = environment(*packages)
    templates.filters |= {"name": name, "figure": figure, "signed": signed, "pair": pair_name}
    return templates.get_template(template).render(context)


def print_tables(content: Json) -> None:
    """Prints the metrics of the rankers and the findings in words."""
    seeds = ", ".join(map(str, content["seeds"]))
    table = plain_table(title=f"{content['dataset']}, seed {seeds}")
    metrics = task_metrics(content["tasks"])
    table.add_column("model", no_wrap=True)
    for metric in metrics.values():
        table.add_column(metric.title, justify="right")
    for ranker, estimates in content["models"].items():
        cells = [figure(estimates[key] and estimates[key]["mean"]) for key in metrics]
        table.add_row(name(ranker), *cells)
    console.print(table)
    for sentence in sentences(content):
        console.print(sentence)


def name(ranker: str) -> str:
    """Returns the title of a ranker or a source of vectors; a variant's title is its name."""
    return NAMES.get(ranker, ranker.replace("_", " "))


def pair_name(pair: str) -> str:
    """Returns the title of a pair `a_over_b`."""
    return " over ".join(map(name, pair.split("_over_")))


def figure(value: float | None, digits: int = 4) -> str:
    """Formats a number with `digits` decimals, None as a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def signed(value: float, digits: int = 2, sign: str = "+") -> str:
    """Formats a number with its sign, or only with a minus if `sign` is empty; never as -0."""
    return format(value, f"{sign}z.{digits}f")


def gain_text(gain: Json | None, digits: int = 2, sign: str = "+") -> str:
    """Formats a percentage and its interval, without line breaks."""
    if gain is None or gain["percent"] is None:
        return "–"
    text = f"{signed(gain['percent'], digits, sign)}\u00a0%"
    if gain["low"] is None:
        return text
    low, high = signed(gain["low"], digits, sign), signed(gain["high"], digits, sign)
    return f"{text}\u00a0[{low},\u00a0{high}]"


def sentences(content: Json) -> Iterator[str]:
    """Yields the findings in words: the gain, the distance to the ceiling, the controls."""
    main = _main_pair(content)
    if not main:
        yield "No pair of models was compared: evaluate.gains contains no trained pair."
        return
    metrics, gains = task_metrics(content["tasks"]), content["gains"]
    compared = [key for key in metrics if metrics[key].headline and gains[main][key] is not None]
    texts = [f"{gain_text(gains[main][key])} {metrics[key].title}" for key in compared]
    yield f"{pair_name(main)}: {_enumerate(texts)}. {_verdict(content)[1]}"
    first, second = main.split("_over_")
    closed = content["distance_closed"]["all"].get(first)
    if closed is not None and second == BASE:
        texts = [f"{gain_text(closed[key], 0, '')} in {metrics[key].title}" for key in compared]
        yield f"Of the distance from {name(BASE)} to the ceiling it closes {_enumerate(texts)}."
    kept_start = content["language_model"].get("contrast", {}).get("kept_start")
    if kept_start:
        seeds = "" if kept_start == 1 else f" on {kept_start:.0%} of the seeds"
        yield (
            f"Contrastive tuning did not improve the ranking of held-out orders{seeds}: larr uses "
            "the vectors from before it."
        )
    key = slice_metrics()[0]
    title = metrics[key].title
    control = gains.get(f"{SHUFFLED}_over_{BASE}")
    if control is not None:
        yield (
            f"With the vectors shuffled among the texts the gain over {name(BASE)} is "
            f"{gain_text(control[key])} {title}: the part that does not depend on their meaning."
        )
    rivals = [
        f"{name(pair.split('_over_')[1])} {gain_text(by_metric[key])}"
        for pair, by_metric in gains.items()
        if pair.startswith(f"{LARR}_over_{LARR}_")
    ]
    if rivals:
        yield f"Over the same model with other vectors, in {title}: {'; '.join(rivals)}."


def _enumerate(texts: list[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _main_pair(content: Json) -> str:
    """Returns the pair of the verdict, the first of the gains; empty without any."""
    return next(iter(content["gains"]), "")


def _verdict(content: Json) -> tuple[str, str]:
    """Returns the outcome of the main pair, up, down or unclear, and a sentence."""
    main, key = _main_pair(content), slice_metrics()[0]
    title = task_metrics()[key].title
    gain = content["gains"][main][key] if main else None
    users = content["sizes"]["all"]["users"]
    if gain is None or gain["low"] is None:
        return "unclear", "There are too few impressions for an interval."
    if users < FEWEST_USERS:
        return "unclear", f"The test days have {users:.0f} users: too few for a reliable interval."
    if gain["low"] > 0:
        return "up", f"The interval of the {title} is above zero."
    if gain["high"] < 0:
        return "down", f"The interval of the {title} is below zero: it is worse."
    return "unclear", f"The interval of the {title} contains zero: no difference is shown."


def _plots(content: Json, metrics: dict[str, Metric], curves: Json) -> Json:
    """Returns the plots of the page by topic and caption; "" for a plot without data."""
    main = _main_pair(content)
    gains, slices, calibration = {}, {}, {}
    for key, metric in metrics.items():
        if metric.headline:
            pairs = ((pair_name(pair), gain[key]) for pair, gain in content["gains"].items())
            caption = f"Relative gain in {metric.title}, in %, with its 95 % interval"
            title = f"Gains in {metric.title}"
            gains[caption] = plots.forest(title, pairs, metric.higher_is_better)
    for column, sizes in content["sizes"]["slices"].items():
        largest = sorted(sizes, key=lambda value: -sizes[value]["impressions"])[:SHOWN_VALUES]
        by_value = content["slice_gains"][column]
        for key in slice_metrics():
            metric = metrics[key]
            gain_of = ((value, by_value[value][main][key]) for value in largest if main)
            caption = f"{pair_name(main)} by {column}, {metric.title}, gain in %"
            title = f"Gain in {metric.title} of {pair_name(main)} by {column}"
            slices[caption] = plots.forest(title, gain_of, metric.higher_is_better)
    rankers = [ranker for ranker in (BASE, LARR, CEILING) if ranker in content["models"]]
    for task in content["tasks"]:
        points = {}
        for ranker in rankers or list(content["models"])[:3]:
            bins = filter(None, content["calibration"][ranker][task]["bins"])
            points[name(ranker)] = [(row["predicted"], row["observed"]) for row in bins]
        caption = f"{task.upper()}: {CALIBRATION}"
        calibration[caption] = plots.reliability(f"Calibration of {task.upper()}", points)
    learning = {title: plots.learning(title, lines) for title, lines in curves.items()}
    return {"gains": gains, "slices": slices, "calibration": calibration, "learning": learning}


def _language_model(tree: Json) -> dict[str, Any]:
    """Returns the figures of stages 1 and 2 for display.

    `states`: title -> the values of the untuned model, after stage 1 and after stage 2; `curves`:
    title -> lists of numbers by name; `others`: the rest, as texts.
    """
    pretrain, contrast = tree.get("pretrain", {}), tree.get("contrast", {})
    states: dict[str, list[Any]] = {}
    for key, title in PERPLEXITIES.items():
        states[title] = [pretrain.get(f"{key}_{moment}") for moment in ("before", "after")] + [None]
    recalls = contrast.get("recall_at_10", {})
    by_state = [dict(leaves(recalls.get(state, {}))) for state in ("untuned", "cpt_only", "whole")]
    for path in by_state[-1]:
        task = path.removeprefix("single_keywords.").replace("_", " ")
        title = RECALLS.get(path, f"recall@10, {task}")
        states[title] = [recall.get(path) for recall in by_state]
    curves, others = {}, []
    for path, value in leaves({"pretrain": pretrain, "contrast": contrast}):
        title = path.replace(".", " ").replace("_", " ")
        if isinstance(value, list):
            if len(value) >= FEWEST_RECORDS:
                records = value if isinstance(value[0], dict) else [{title: x} for x in value]
                curves[CURVES.get(path, title)] = {
                    key.replace("_", " "): [record[key] for record in records] for key in records[0]
                }
        elif value is not None and not path.startswith(SHOWN_AS_STATES):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            others.append(f"{title} {value:,}" if is_number else f"{title}: {value}".lower())
    states = {title: values for title, values in states.items() if values != [None] * 3}
    return {"states": states, "curves": curves, "others": others}
