"""What an encoder has read, as rows of a batch come and go; a fake takes the graph's place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memoir_edge.errors import GraphError
from memoir_edge_runtime._provider import value
from memoir_edge_runtime._source import MASK, Encoder, encoder_of

NAME = "past_key_values.0.encoder.key"


class Fake:
    """Gives each token's id as its key, two heads of width 1."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]

    def get_outputs(self) -> list[Any]:
        return [type("Output", (), {"name": NAME})]

    def run_with_ort_values(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        ids = feeds["input_ids"].numpy()
        if (ids == 13).any():
            raise RuntimeError("unlucky")
        key = np.broadcast_to(ids[:, None, :, None], (len(ids), 2, ids.shape[1], 1))
        return [value(key.astype(np.float32))]


def keys(source: Any) -> list[list[list[float]]]:
    return source.read[NAME].numpy()[..., 0].tolist()


def test_rows_stand_flush_left() -> None:
    source = Encoder(Fake()).read([[5, 6, 7], [8]])
    assert source.attention.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert source.feeds.keys() == {MASK, NAME}
    assert source.feeds[MASK].numpy().tolist() == source.attention.tolist()


def test_rows_of_several_are_joined_without_padding_none_needs() -> None:
    encoder = Encoder(Fake())
    first, second = encoder.read([[5, 6, 7], [8]]), encoder.read([[3, 4]])
    joined = encoder.join([(first, [1]), (second, [0])])
    assert joined.attention.tolist() == [[1, 0], [1, 1]]
    assert keys(joined) == [[[8, 0]] * 2, [[3, 4]] * 2]
    again = encoder.join([(joined, [1, 0]), (first, [0])])
    assert keys(again) == [[[3, 4, 0]] * 2, [[8, 0, 0]] * 2, [[5, 6, 7]] * 2]


def test_a_graph_that_fails_is_named() -> None:
    with pytest.raises(GraphError, match=r"encoder failed on a batch of 1 by 2 tokens: unlucky"):
        Encoder(Fake()).read([[1, 13]])


def test_an_export_without_its_encoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert encoder_of(tmp_path) is None
    config = {"is_encoder_decoder": True, "decoder_start_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GraphError, match=r"holds no encoder_model\.onnx"):
        encoder_of(tmp_path)
