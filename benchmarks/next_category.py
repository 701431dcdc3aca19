"""The next order's answer (its category) by the LM of `larr instruct`, by counts and by rankers.

    python benchmarks/next_category.py CONFIG [--set a.b=v ...]

Requires a finished `larr run` with the source `predictions`. Each method takes one of the places
that a request of the test days showed; it is right if the category of that place is one that was
clicked (ordered). The methods are the LM's probability of the category, the number of training
orders of the category, that of the user's own orders on earlier days (then of all), and rankers'
scores. `chance` takes any place.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from measure import config_parser

from larr import artifacts
from larr.config import Config
from larr.metrics import Array
from larr.rankers.predict import predict
from larr.settings import load_config
from larr.text.instruct import read_answers


def scores(config: Config, name: str, answer_N: pl.Series) -> dict[str, Array]:
    """Returns method -> the score of each test row; `answer_N` are the answers of the places."""
    data = artifacts.folder(config, "prepare")
    slots = [keyword.name for keyword in config.scene_keywords]
    text_NR = np.load(data / "test" / "texts.npy")
    known_N, place_N = (text_NR[:, slots.index(each)] for each in (config.instruct.knowledge, name))
    vectors_VD = np.load(artifacts.folder(config, "embed") / "predictions" / "vectors.npy")
    answers = read_answers(config).filter(keyword=name)
    popular_N = answer_N.replace_strict(answers["text"], answers["orders"], default=0).to_numpy()
    rows = pl.read_parquet(data / "test" / "rows.parquet", columns=["user_id", "time"])
    day = pl.col("time").dt.date()
    asked = rows.select("user_id", answer_N.alias("answer"), day=day).with_row_index("row")
    events = pl.read_parquet(data / "orders.parquet").select("user_id", answer=name, ordered=day)
    own = asked.join(events, on=["user_id", "answer"]).filter(pl.col("ordered") < pl.col("day"))
    own_N = np.bincount(own["row"].to_numpy(), minlength=len(asked))
    return {
        "LM": (vectors_VD[known_N] * vectors_VD[place_N]).sum(axis=1),
        "most frequent": popular_N,
        "most frequent of the user": own_N + popular_N / (popular_N.max() + 1),
        "chance": np.zeros(len(asked)),
    }


def accuracy(score_N: Array, label_N: Array, request_N: Array, answer_N: pl.Series) -> float:
    """Returns the share of requests with a label whose best row has the answer of a labelled row.

    Of several best rows each counts equally.
    """
    rows = pl.DataFrame({"request": request_N, "score": score_N, "label": label_N > 0})
    wanted = rows.with_columns(answer=answer_N).filter("label").select("request", "answer")
    rows = rows.with_columns(answer=answer_N).filter(pl.col("label").any().over("request"))
    best = rows.filter(pl.col("score") == pl.col("score").max().over("request"))
    best = best.join(wanted.unique().with_columns(right=1.0), on=["request", "answer"], how="left")
    return float(best.group_by("request").agg(pl.col("right").fill_null(0).mean())["right"].mean())


def main() -> None:
    """Prints a table."""
    arguments = config_parser(__doc__).parse_args()
    config = load_config(arguments.config, arguments.overrides)
    data = artifacts.folder(config, "prepare") / "test"
    label_NT, request_N = np.load(data / "labels.npy"), np.load(data / "requests.npy")[:, 0]
    texts = pl.read_parquet(data.parent / "texts.parquet")["text"]
    for name in config.instruct.answers:
        slot = [keyword.name for keyword in config.scene_keywords].index(name)
        answer_N = texts.gather(np.load(data / "texts.npy")[:, slot])
        methods = {key: np.stack([s, s], 1) for key, s in scores(config, name, answer_N).items()}
        methods |= {ranker: predict(config, ranker) for ranker in config.align.models}
        counts = [len(np.unique(request_N[label_N > 0])) for label_N in label_NT.T]
        print(f"{name}: {counts[0]:,} requests with a click, {counts[-1]:,} with an order")
        for method, score_NT in methods.items():
            shares = [
                accuracy(score_N, label_N, request_N, answer_N)
                for score_N, label_N in zip(score_NT.T, label_NT.T, strict=True)
            ]
            print(f"{method:28}" + "".join(f"{share:8.3f}" for share in shares))


if __name__ == "__main__":
    main()
