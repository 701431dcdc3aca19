"""Summaries of the knowledge about users by a causal language model, for `larr instruct` (HKFR).

Decoding is greedy, and each summary is kept in `output/summaries` under its text, so a text of a
user and a day is summarised once. Serving reads only vectors, so it never calls the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from larr import artifacts
from larr.artifacts import Artifact
from larr.config import Config
from larr.config.text import BackboneConfig
from larr.errors import ConfigError
from larr.progress import track
from larr.text import checkpoint
from larr.text.backbone import tokenized

SETTING = "instruct.summariser"
PROMPT = (
    "Summarise in one sentence what this customer likes and avoids. "
    "Use only what is written here.\n\n{text}"
)
NEW_TOKENS = 48
"""Maximum number of tokens of a summary."""
MAX_TOKENS = 1_024
"""Maximum number of tokens read of a text."""
BATCH = 32
"""Texts that are summarised together, and stored in one file."""


def summarised(config: Config, texts: pl.Series) -> pl.Series:
    """Returns the summary of each text; the texts themselves without `instruct.summariser`.

    A text whose summary is empty stays as it is. Raises ConfigError if the model cannot be read or
    does not generate text.
    """
    model = config.instruct.summariser
    if not model:
        return texts
    settings = {"summariser": model, "prompt": PROMPT}
    stored = Artifact(artifacts.folder(config, "summaries"), settings, files=(model,))
    stored.start(resume=True)
    new = texts.unique().to_frame("text").join(_read(stored.folder), on="text", how="anti")
    if len(new):
        _write(stored.folder, new["text"].sort(), model)
    found = texts.to_frame("text").join(
        _read(stored.folder), on="text", how="left", maintain_order="left"
    )
    return found["summary"]


def _read(folder: Path) -> pl.DataFrame:
    """Returns the stored texts and summaries."""
    parts = [pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    return pl.concat([pl.DataFrame(schema={"text": pl.String, "summary": pl.String}), *parts])


def _write(folder: Path, texts: pl.Series, name: str) -> None:
    """Summarises texts, in batches of similar length, and stores each batch."""
    tokenizer, model = checkpoint.read(BackboneConfig(model=name, max_length=1), SETTING)
    if not model.can_generate():
        raise ConfigError(f"{SETTING}: {name} does not generate text; give a causal language model")
    model.eval()
    texts = texts.gather(texts.str.len_chars().arg_sort())
    first = sum(1 for _ in folder.glob("*.parquet"))
    with track("summarising knowledge", len(texts), "texts") as advance:
        for number, start in enumerate(range(0, len(texts), BATCH), start=first):
            part = texts[start : start + BATCH].to_list()
            table = pl.DataFrame({"text": part, "summary": summarise(tokenizer, model, part)})
            with artifacts.atomic(folder / f"{number:09d}.parquet") as partial:
                table.write_parquet(partial)
            advance(len(part))


def summarise(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, texts: list[str]
) -> list[str]:
    """Returns the summary of each text, in one line, or the text if the model writes nothing."""
    before, after = _prompt(tokenizer)
    room = MAX_TOKENS
    if longest := checkpoint.longest_input(model):
        room = min(room, longest - len(before) - len(after) - NEW_TOKENS)
    if room < 1:
        raise ConfigError(
            f"{SETTING}: {model.name_or_path} reads at most {longest} tokens, fewer than the "
            f"prompt and a summary of {NEW_TOKENS} tokens need; give a larger model"
        )
    rows = [[*before, *ids[:room], *after] for ids in tokenized(tokenizer, texts)]
    padded: Any = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    with torch.inference_mode():
        ids_BT = model.generate(
            **padded.to(model.device),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
        )
    written = tokenizer.batch_decode(
        ids_BT[:, padded["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [" ".join(summary.split()) or text for text, summary in zip(texts, written, strict=True)]


def _prompt(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Returns the ids before and after a text, which is tokenized alone: it cannot forge a chat."""
    prompt = PROMPT.format(text="\0")
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}]
        chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, after = str(chat).split("\0")
        added = False  # the template contains them
    else:
        before, after = f"{prompt}\n\nSummary:".split("\0")
        added = True
    ids = tokenizer(before, add_special_tokens=added)["input_ids"]
    return ids, tokenizer(after, add_special_tokens=False)["input_ids"]
