"""Models in one .gguf file: a tiny one written here, and SmolLM2 where it can be had."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from memoir_edge.base import locate
from memoir_edge.editor import BaseModel, load
from memoir_edge.editor.model import greedy
from memoir_edge.errors import InputError

TOKENS = ["<s>", "</s>", *map(chr, range(33, 127)), "Ġ", "ab"]
WIDE, INNER, HEADS, LAYERS = 32, 64, 2, 1


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Llama of one layer with random weights."""
    monkeypatch.setenv("MEMOIR_EDGE_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(place, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDE)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, *[1] * (len(TOKENS) - 2)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), WIDE), "output_norm": (WIDE,)}
    for name, shape in {
        "attn_norm": (WIDE,), "ffn_norm": (WIDE,), "attn_q": (WIDE, WIDE), "attn_k": (WIDE, WIDE),
        "attn_v": (WIDE, WIDE), "attn_output": (WIDE, WIDE), "ffn_gate": (INNER, WIDE),
        "ffn_up": (INNER, WIDE), "ffn_down": (WIDE, INNER),
    }.items():  # fmt: skip
        shapes[f"blk.0.{name}"] = shape
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place


def test_a_file_is_converted_once(file: Path, tmp_path: Path) -> None:
    folder = locate(str(file))
    assert folder.parent == tmp_path / "cache/gguf"
    stamp = folder.stat().st_mtime_ns
    base = load(str(file), device="cpu")
    assert (base.id, base.eos, base.context) == ("tiny", (1,), 64)
    assert folder.stat().st_mtime_ns == stamp
    assert load(str(folder), device="cpu").digest == base.digest is not None


@pytest.mark.parametrize(
    ("name", "says"),
    [("none.gguf", "no .gguf file at"), ("torn.gguf", "torn.gguf is no .gguf file")],
)
def test_a_file_that_is_none_is_refused(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMOIR_EDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "torn.gguf").write_bytes(b"GGUF and then nothing")
    with pytest.raises(InputError, match=says):
        load(str(tmp_path / name), device="cpu")
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["torn.gguf"]


# --- SmolLM2 -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(real_model: Callable[[str], Path]) -> BaseModel:
    return load(str(real_model("smollm2")), device="cpu")


def test_known_encodings(smollm2: BaseModel) -> None:
    assert smollm2.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert smollm2.encode(" 1989") == [216, 33, 41, 40, 41]  # a token a digit
    text = "It wasn't  there,\n\n was it? Ünïcode 東京 42"
    assert smollm2.decode(smollm2.encode(text)) == text


def test_it_knows_the_capital(smollm2: BaseModel) -> None:
    [answer] = greedy(smollm2, [smollm2.encode("The capital of France is")], 1)
    assert smollm2.decode(answer) == " Paris"


def test_a_chat_stops_by_itself(smollm2: BaseModel) -> None:
    chat = smollm2.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        add_generation_prompt=True,
        tokenize=False,
    )
    [answer] = greedy(smollm2, [smollm2.encode(str(chat))], 40)
    assert "Paris" in smollm2.decode(answer)
    assert len(answer) < 40
    assert smollm2.tokenizer.convert_ids_to_tokens(list(smollm2.eos)) == ["<|im_end|>"]
