"""The runtime reads a prompt as the editor does, whichever file of a model says how."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Tokenizer

from memoir_edge.errors import InputError
from memoir_edge_exporter import export
from memoir_edge_exporter._tokenizer import settle_tokenizer
from memoir_edge_exporter._write import companions
from memoir_edge_runtime import _tokens

TEXTS = (
    "The capital of France is", "<s>The capital", " a  b", "x</s>", "naïve 日本",
    "<|im_start|>user\nHi<|im_end|>\n",
)  # fmt: skip
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
LLAMA: dict[str, Any] = {"tokenizer_class": "LlamaTokenizerFast"}
CHAT = {
    str(1500 + i): {
        "content": token, "special": True, "normalized": False, "single_word": False,
        "lstrip": False, "rstrip": False,
    }
    for i, token in enumerate(("<|im_start|>", "<|im_end|>"))
}  # fmt: skip
BARE: dict[str, Any] = {"post_processor": None}


def model(demo_dir: Path, to: Path, said: dict[str, Any], file: dict[str, Any]) -> Path:
    """The demo model's tokenizer, of which two files say something else."""
    to.mkdir()
    for name in FILES:
        shutil.copy(demo_dir / name, to / name)
    for name, changes in (("tokenizer_config.json", said), ("tokenizer.json", file)):
        (to / name).write_text(json.dumps(json.loads((to / name).read_text()) | changes))
    return to


def settled(source: Path, out: Path) -> Path:
    out.mkdir()
    companions(source, out)
    settle_tokenizer(source, out)
    return out


@pytest.mark.parametrize(
    ("said", "file"),
    [
        ({}, {}),
        (LLAMA | {"add_bos_token": True}, BARE),
        (LLAMA | {"add_bos_token": False}, {}),
        (LLAMA | {"add_eos_token": True}, {}),
        ({"tokenizer_class": "GemmaTokenizerFast"}, BARE),
        ({"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True}, {}),
        ({"added_tokens_decoder": CHAT}, {}),
    ],
    ids=str,
)
def test_the_tokens_are_those_of_the_editor(
    demo_dir: Path, tmp_path: Path, said: dict[str, Any], file: dict[str, Any]
) -> None:
    source = model(demo_dir, tmp_path / "model", said, file)
    wanted = AutoTokenizer.from_pretrained(source)
    read = _tokens.load(settled(source, tmp_path / "out"))
    for text in TEXTS:
        assert list(read._encoding(text).ids) == wanted(text)["input_ids"], text
        assert read.encode_bare(text) == wanted(text, add_special_tokens=False)["input_ids"]
    assert (read.id("bos_token"), read.id("eos_token")) == (0, 1)


def test_a_special_token_that_its_class_names(demo_dir: Path, tmp_path: Path) -> None:
    source = model(demo_dir, tmp_path / "model", LLAMA, {})
    (source / "special_tokens_map.json").unlink()
    path = source / "tokenizer_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in said.items() if k != "bos_token"}))
    assert _tokens.load(settled(source, tmp_path / "out")).encode("<s>Hi")[:2] != [0, 0]


def test_files_that_say_the_same_stay_as_they_are(demo_dir: Path, tmp_path: Path) -> None:
    out = settled(demo_dir, tmp_path / "out")
    for name in FILES:
        assert (out / name).read_bytes() == (demo_dir / name).read_bytes()


def test_a_file_that_also_cuts_and_pads_stays_as_it_is(demo_dir: Path, tmp_path: Path) -> None:
    """transformers then has a padding token that the model does not know."""
    source = tmp_path / "model"
    source.mkdir()
    for name in FILES[:2]:
        shutil.copy(demo_dir / name, source)
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (source / "tokenizer_config.json").write_text(json.dumps(said))
    core = Tokenizer.from_file(str(source / "tokenizer.json"))
    core.enable_truncation(8)
    core.enable_padding(length=8)
    core.save(str(source / "tokenizer.json"))
    assert AutoTokenizer.from_pretrained(source).pad_token == "[PAD]"
    out = settled(source, tmp_path / "out")
    for name in FILES[1:3]:
        assert (out / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("kind", ["a class that is not known", "no class and no type"])
def test_what_transformers_cannot_load_stays(demo_dir: Path, tmp_path: Path, kind: str) -> None:
    """As onnxruntime-genai's builder leaves a folder, with the next transformers."""
    source = model(demo_dir, tmp_path / "model", {"tokenizer_class": "NewBackend"}, BARE)
    if kind == "no class and no type":
        for name in ("config.json", "tokenizer_config.json"):
            (source / name).unlink()
    out = settled(source, tmp_path / "out")
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_a_torn_tokenizer_is_one_error(llama, tmp_path: Path, refused) -> None:
    source = Path(shutil.copytree(llama.model, tmp_path / "model"))
    file = source / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:500])
    error = refused(
        tmp_path, InputError, r"the tokenizer\.json of .* is no tokenizer", model=source
    )
    assert "save_pretrained" in str(error.hint)


def test_a_tokenizer_in_files_of_old_is_exported(llama, tmp_path: Path) -> None:
    """GPT-2's vocabulary and merges, of which transformers makes a tokenizer.json."""
    source, old = Path(shutil.copytree(llama.model, tmp_path / "model")), tmp_path / "old"
    for name in FILES[1:]:
        (source / name).unlink()
    letters = {letter: i for i, letter in enumerate("abcdefgh")}
    (source / "vocab.json").write_text(json.dumps(letters | {"Ġ": 8, "<|endoftext|>": 9}))
    (source / "merges.txt").write_text("#version: 0.2\n")
    GPT2Tokenizer(source / "vocab.json", source / "merges.txt").save_pretrained(source)
    assert not (source / "tokenizer.json").exists()
    made = export(model=source, out=old)
    assert _tokens.load(made.out).encode("ab c") == [0, 1, 8, 2]
