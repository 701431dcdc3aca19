"""Peak memory of each process that trains something that is divided among them (Linux).

    python benchmarks/dividing.py [--divide] [--lora-rank 16] [--width 768] [--layers 12]
    python benchmarks/dividing.py --table 10_000_000 [--processes 4]

The first trains a random language model in stage 1, whole or divided, by default one of 88 million
parameters; the second an embedding table with this many values, on random rows. Prints for each
process what its memory grew by at most, from before the model was read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from larr.config import Config
from larr.group import Group, process_group
from larr.rankers.embedding import DividedTable, make_table
from larr.rankers.optimizers import LazyAdam
from larr.text.backbone import load_base
from larr.text.checkpoint import BUILTIN
from larr.text.pretrain import Row, train_model

STEPS, BATCH, TOKENS = 3, 4, 16
TABLE_STEPS, LOOKUPS, EMBEDDING = 100, 10_000, 16
"""Together the steps reach every page of the table."""


def main() -> None:
    """Trains the model or the table in several processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--divide", action="store_true")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", type=int, default=0)
    options = parser.parse_args()
    if options.table:
        config = Config.model_validate({"cluster": {"workers": options.processes}})
        with process_group(options.processes, train_table, config, options.table) as group:
            train_table(config, options.table, group)
        return
    with TemporaryDirectory() as folder:
        write_model(Path(folder), options.width, options.layers)
        config = Config.model_validate(
            {
                "output": folder,
                "keywords": [{"name": "poi_name", "owner": "poi", "view": "basic", "template": ""}],
                "backbone": {"model": folder, "lora_rank": options.lora_rank},
                "pretrain": {"batch_size": BATCH},
                "cluster": {"workers": options.processes, "divide_model": options.divide},
            }
        )
        with process_group(options.processes, train, config) as group:
            train(config, group)


def write_model(folder: Path, width: int, layers: int) -> None:
    """Writes a random Llama with the built-in tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN)
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        tie_word_embeddings=True,
    )
    tokenizer.save_pretrained(folder)
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)


def train(config: Config, group: Group) -> None:
    """Trains in one process of the group, and prints its memory."""
    before = forgotten_peak()
    lm = load_base(config)
    parameters = lm.model.num_parameters()
    ids = torch.randint(9, 999, (STEPS * BATCH, TOKENS)).tolist()
    rows: list[Row] = [{"input_ids": row, "labels": row} for row in ids]
    _, losses, seconds = train_model(config, lm, rows, STEPS, group=group)
    print(
        f"process {group.rank}: {parameters / 1e6:.1f} million parameters, "
        f"{peak() - before:.2f} GB, {seconds / STEPS:.1f} s a step, loss {losses[-1]:.3f}",
        flush=True,
    )


def train_table(_: Config, values: int, group: Group) -> None:
    """Trains a table in one process of the group, and prints its memory."""
    before = forgotten_peak()
    table = make_table(values, EMBEDDING, group)
    table.draw(torch.Generator().manual_seed(1))
    adam = LazyAdam(table, 0.01, 0.0)
    group.start(table)
    torch.manual_seed(group.rank)
    started = time.process_time()
    for _step in range(TABLE_STEPS):
        table(torch.randint(values, (LOOKUPS,), dtype=torch.int32)).square().sum().backward()
        if isinstance(table, DividedTable):
            table.add_gradients()
        adam.step()
    seconds, trained = time.process_time() - started, peak() - before
    del adam
    if isinstance(table, DividedTable):
        table = table.whole()
    print(
        f"process {group.rank}: {trained:.2f} GB in training, {peak() - before:.2f} GB at most, "
        f"{1e3 * seconds / TABLE_STEPS:.1f} ms of processor time a step",
        flush=True,
    )


def forgotten_peak() -> float:
    """Returns the memory of this process, from which on its peak is measured, in GB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak()


def peak() -> float:
    """Returns the largest memory of this process so far, in GB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return kilobytes * 1024 / 1e9


if __name__ == "__main__":
    main()
