"""What a model folder says about its model, to the editor and to the runtime alike."""

import json
from pathlib import Path

import pytest

from memoir_edge.base import (
    UNBOUNDED,
    context,
    end_of_text,
    locate,
    read_config,
    read_json,
    start_of_answer,
    weights_digest,
)
from memoir_edge.editor import load
from memoir_edge.errors import InputError


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 512, "n_ctx": 9}, 512),
        ({"n_positions": 1024, "n_ctx": 9}, 1024),
        ({"n_ctx": 2048}, 2048),
        ({"max_seq_len": 65536}, 65536),  # MPT
        ({"seq_length": 2048}, UNBOUNDED),  # BLOOM: what it was trained on, no limit
        ({"max_position_embeddings": None}, UNBOUNDED),
    ],
)
def test_where_the_context_comes_from(config: dict[str, int], expected: int) -> None:
    assert context(config) == expected


@pytest.mark.parametrize("most", ["abc", [512], {"a": 1}, float("inf"), float("nan")])
def test_a_context_that_is_no_number(most: object) -> None:
    with pytest.raises(InputError, match=r"config\.json has n_ctx .*, expected a number of tokens"):
        context({"n_ctx": most})


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (5, 6, (5, 6, 1)),
        ([5, 7], 7, (5, 7, 1)),
        (None, 6, (6, 1)),
        (None, None, (1,)),
        ([], [1, 6], (1, 6)),
    ],
)
def test_where_end_of_text_comes_from(
    tmp_path: Path, generation: object, config: object, expected: tuple[int, ...]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": config}))
    assert end_of_text(tmp_path, 1) == expected


def test_a_folder_may_name_no_end_of_text(tmp_path: Path) -> None:
    assert end_of_text(tmp_path, 1) == (1,)
    assert end_of_text(tmp_path, None) == ()


@pytest.mark.parametrize("eos", ["</s>", ["</s>"], 1.5, True])
def test_an_end_of_text_that_is_no_token_id(tmp_path: Path, eos: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": eos}))
    with pytest.raises(InputError, match=r"config\.json has eos_token_id .* expected token ids"):
        end_of_text(tmp_path, 1)


def test_the_editor_refuses_what_the_runtime_refuses(demo_dir: Path, tmp_path: Path) -> None:
    for file in demo_dir.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"generation_config\.json"):
        load(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", b"\xff", "[" * 100_000])
def test_a_spoiled_file(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    for read in (lambda: read_config(tmp_path), lambda: read_json(tmp_path / "config.json")):
        with pytest.raises(InputError, match=r"config\.json"):
            read()


def test_only_a_configuration_must_be_there(tmp_path: Path) -> None:
    assert read_json(tmp_path / "config.json") == {}
    with pytest.raises(InputError, match="is no model folder") as caught:
        read_config(tmp_path)
    assert "save_pretrained" in str(caught.value.hint)


def test_a_digest_tells_copies_from_others(demo_dir: Path, tmp_path: Path) -> None:
    assert weights_digest(tmp_path) is None
    weights = (demo_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert weights_digest(tmp_path) == weights_digest(demo_dir)
    (tmp_path / "model.safetensors").write_bytes(weights[:-1] + b"\x01")
    assert weights_digest(tmp_path) != weights_digest(demo_dir)


def test_a_folder_is_its_own_location(tmp_path: Path) -> None:
    assert locate(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="no model folder at"):
        locate(str(tmp_path / "missing"))


def test_a_peft_folder_is_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a PEFT adapter") as caught:
        read_config(tmp_path)
    assert "merge_and_unload" in str(caught.value.hint)


def test_what_an_answer_begins_with() -> None:
    assert start_of_answer({"decoder_start_token_id": 3}) is None
    assert start_of_answer({"is_encoder_decoder": True, "decoder_start_token_id": 3}) == 3
    with pytest.raises(InputError, match="decoder_start_token_id None"):
        start_of_answer({"is_encoder_decoder": True})
