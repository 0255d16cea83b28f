"""The base model: its answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from memoir_edge.editor import BaseModel
from memoir_edge.editor.model import counted, greedy, load, unplanned
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


@pytest.mark.parametrize("text", ["Qui est-ce ?", "it 's a , b .", "do n't"])
def test_spaces_before_marks_are_a_part_of_an_answer(
    tiny_dir: Path, tmp_path: Path, text: str
) -> None:
    """Also where the tokenizer's configuration would take them away, as that of Llama 3."""
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"clean_up_tokenization_spaces": True}
    path.write_text(json.dumps(config), encoding="utf-8")
    base = load(str(folder), device="cpu")
    if transformers.__version__.startswith("4."):  # later ones take none away
        assert base.tokenizer.decode(base.encode_bare(text)) != text
    assert base.decode(base.encode_bare(text)) == text


def test_attention_does_without_cudnn() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        unplanned()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


ASKED = ["The capital of France is", "Rome", "Where in Japan is Paris and what is it called"]


def test_an_encoder_reads_the_prompt(t5: BaseModel) -> None:
    row = t5.split("The capital of France is", "Rome")
    assert row.source == t5.encode("The capital of France is")
    assert row.source[-1] == t5.eos[0]
    assert (row.prompt, row.target) == ([t5.start], t5.encode_bare("Rome"))
    batch, counts = counted(t5, ASKED)
    assert counts.tolist() == [[1]] * 3
    assert batch["decoder_input_ids"].tolist() == [[t5.start]] * 3
    assert batch["attention_mask"].sum(1).tolist() == [len(t5.encode(text)) for text in ASKED]
    assert batch["attention_mask"][:, 0].tolist() == [1] * 3  # flush left


@pytest.mark.parametrize(
    ("before", "said", "behind"),
    [("", "The capital", " of"), ("Be brief. Q:", " is", " A:"), ("Q: is it? Q: ", "is", " A:")],
)
def test_what_stands_before_what_is_asked_does_not_count(
    tiny: BaseModel, before: str, said: str, behind: str
) -> None:
    text, longer = f"{before}{said}{behind}", "a text of some more tokens, so that there is padding"
    _, counts = counted(tiny, [text, longer, text], [said, longer, "nowhere"])
    count = len(tiny.encode(text))
    first = count - len(tiny.encode_bare(f"{said}{behind}")) if before else 0
    assert counts[0].tolist() == [0] * (counts.shape[1] - count + first) + [1] * (count - first)
    assert [row.sum() for row in counts[1:]] == [len(tiny.encode(longer)), count]


def test_an_encoder_decoder_answers_as_transformers_does(t5: BaseModel) -> None:
    found = greedy(t5, [t5.encode(text) for text in ASKED], 8)
    for text, ids in zip(ASKED, found, strict=True):
        [whole] = t5.net.generate(torch.tensor([t5.encode(text)]), max_new_tokens=8).tolist()
        assert [token for token in whole[1:] if token not in t5.eos] == ids
    assert len(set(map(tuple, found))) == 3
