"""The base model: its answers."""

import json
import shutil
from pathlib import Path

import torch

from memoir_edge.editor import BaseModel
from memoir_edge.editor.model import greedy, load, unplanned
from memoir_edge.editor.rows import rows


def test_answers_end_at_the_context(tiny: BaseModel) -> None:
    row = tiny.encode("word " * 40)[:60]
    assert len(greedy(tiny, [row], 20, stop=False)[0]) == tiny.context - len(row)
    assert greedy(tiny, [row[:1] * tiny.context], 20) == [[]]


def test_a_text_ends_at_any_end_that_the_models_files_name(tiny_dir: Path, tmp_path: Path) -> None:
    """And an edit is trained to end with the first of them."""
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    plain = load(str(folder), device="cpu")
    row = plain.encode("word")
    [[first, *_]] = greedy(plain, [row], 1, stop=False)
    for name, ends in (("generation_config.json", [first + 1, first]), ("config.json", first + 2)):
        path = folder / name
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(config | {"eos_token_id": ends}), encoding="utf-8")
    ended = load(str(folder), device="cpu")
    assert ended.eos == (first + 1, first, first + 2, 1)
    assert greedy(ended, [row], 3) == [[]]
    [trained] = rows(ended, "word", "other", eos=True)
    assert trained.target[-1] == first + 1


def test_attention_does_without_cudnn() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        unplanned()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
