"""Weights in a pickle: every type is read, nothing in it is run."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from memoir_edge.editor.weights import unpickled
from memoir_edge.errors import InputError


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_names_types_shapes_and_bytes(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.arange(6).reshape(2, 3).to(dtype)
    torch.save({"turned": whole.T, "one": whole[1, 1]}, tmp_path / "w.bin")
    found = {name: rest for name, *rest in unpickled(tmp_path / "w.bin")}
    assert [(each[1], each[2].nbytes // dtype.itemsize) for each in found.values()] == [
        ((3, 2), 6), ((), 1),
    ]  # fmt: skip
    kind, shape, data = found["turned"]
    assert kind == {8: "I64", 4: "F32", 2: "BF16", 1: "BOOL"}[dtype.itemsize]
    assert torch.equal(torch.from_numpy(data.copy()).view(dtype).reshape(shape), whole.T)


class Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_code_in_a_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Harm()}, tmp_path / "w.bin")
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"a": Harm()}))
    for name in ("w.bin", "plain.bin"):
        with pytest.raises(InputError, match="is no file of weights") as caught:
            list(unpickled(tmp_path / name))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"junk", b"", b"\x80\x04", b"PK\x03\x04torn"])
def test_a_spoiled_file_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.bin").write_bytes(content)
    with pytest.raises(InputError, match="is no file of weights"):
        list(unpickled(tmp_path / "w.bin"))


@pytest.mark.parametrize("held", [[torch.ones(1)], {"a": {"b": torch.ones(1)}}, {"epoch": 3}])
def test_what_holds_no_tensors_by_name_is_one_error(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "w.bin")
    with pytest.raises(InputError, match="other things than tensors"):
        list(unpickled(tmp_path / "w.bin"))
