"""The route carried by the graph: a host of states gets the answers of a host that routes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transformers import GPTNeoConfig

from memoir_edge import ports, tophash
from memoir_edge.errors import GraphError, InputError
from memoir_edge.sites import LAYERS
from memoir_edge_exporter._carry import as_kind, carry, layers, one_layer_more

STATES = ["recurrent", "cache"]
rng = np.random.default_rng(0)
IDS = rng.integers(2, 258, (4, 9))
ATTENTION = (np.arange(9) >= 9 - np.array([[9], [3], [6], [1]])).astype(np.int64)
STEPS = 4
Feeds = dict[str, np.ndarray]


@pytest.fixture
def carrying(made, open_graph) -> Callable[[str], Any]:
    """The export's graph, which carries the route as a state."""

    def load(state: str) -> Any:
        model = carry(onnx.load(made.out / "model.onnx"), state)
        onnx.checker.check_model(model, full_check=True)
        return open_graph(model)

    return load


def nothing(session: Any, B: int) -> Feeds:
    """What a host begins with, by the graph's own signature."""
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    past = [i for i in session.get_inputs() if i.name.startswith("past_key_values")]
    return {
        i.name: np.zeros([B, *(0 if isinstance(n, str) else n for n in i.shape[1:])],
                         dtypes[i.type])
        for i in past
    }  # fmt: skip


def host(session: Any, ids: np.ndarray, attention: np.ndarray, **fed: np.ndarray) -> list[Feeds]:
    """Greedy decoding by a host that knows states and nothing of memories; each step's outputs."""
    past, steps = nothing(session, len(ids)), []
    for _ in range(STEPS):
        feeds = {
            "input_ids": ids, "attention_mask": attention, **past,
            "position_ids": np.maximum(attention.cumsum(1) - 1, 0)[:, -ids.shape[1] :],
            **{f"memory.{name}": value for name, value in fed.items()},
        }  # fmt: skip
        names = [output.name for output in session.get_outputs()]
        steps.append(dict(zip(names, session.run(None, feeds), strict=True)))
        past = {name: steps[-1][name.replace("past_key_values", "present")] for name in past}
        ids = steps[-1]["logits"][:, -1:].argmax(-1)
        attention = np.concatenate([attention, np.ones_like(ids)], axis=1)
    return steps


@pytest.fixture
def found(made, Graph, memory) -> Any:
    """Reaches rows 0 and 2 of `IDS`, row 2 by bank row 3000."""
    D, d = made.exported.sidecar.D, made.exported.sidecar.d
    k, R = 16, 3001
    bank = rng.random((R, D)).argsort(axis=1) < k
    plain = memory(bank[:1], d)
    masks = masks_of(made, plain, Graph(made.out))
    bank[7], bank[3000] = masks[0], masks[2]
    thresholds = np.full(R, 2, np.float32)
    thresholds[[7, 3000]] = 0.8  # in float16 activations are rounded
    return replace(memory(bank, d, size=0.5), thresholds=thresholds)


def masks_of(made, plain, graph) -> np.ndarray:
    """Masks of the prompts, read off the site's input in torch."""
    import torch

    net, seen = made.load(), []
    site = net.get_submodule(made.site)
    handle = site.register_forward_hook(lambda module, args, y: seen.append(args))
    with torch.no_grad():
        net(
            input_ids=torch.from_numpy(IDS),
            attention_mask=torch.from_numpy(ATTENTION),
            position_ids=torch.from_numpy(np.maximum(ATTENTION.cumsum(1) - 1, 0)),
        )
    handle.remove()
    f = tophash.feature(seen[0][0].numpy(), ATTENTION)
    return tophash.mask(f, plain.center, plain.scale, plain.permutation, plain.k)


@pytest.mark.parametrize("state", STATES)
def test_a_host_of_states_gets_what_a_host_that_routes_gets(
    made, carrying, Graph, found, port_feeds, state: str
) -> None:
    fed = port_feeds(found)
    steps = host(carrying(state), IDS, ATTENTION, **fed)
    _, logits, routing = Graph(made.out).greedy(IDS, ATTENTION, STEPS, **fed)
    assert routing["memory.route_out"].tolist() == [8, -1, 3001, -1]
    for i, step in enumerate(steps):
        np.testing.assert_array_equal(step["memory.route_out"], routing["memory.route_out"])
        np.testing.assert_array_equal(step["logits"][:, -1], logits[i])


@pytest.mark.parametrize("state", STATES)
def test_a_route_of_the_base_model_is_the_empty_memory_bit_for_bit(
    made, carrying, found, port_feeds, state: str
) -> None:
    session = carrying(state)
    base = host(session, IDS, ATTENTION, route=np.array([-1]), **port_feeds(found))
    for ours, empty in zip(base, host(session, IDS, ATTENTION), strict=True):
        assert (ours["memory.route_out"] == -1).all()
        np.testing.assert_array_equal(ours["logits"], empty["logits"])


@pytest.mark.parametrize("state", STATES)
def test_a_prompt_of_one_token_is_decided_and_a_later_prompt_anew(
    llama, memory, port_feeds, open_graph, state: str
) -> None:
    session = open_graph(carry(onnx.load(llama.out / "model.onnx"), state))
    D, d = llama.exported.sidecar.D, llama.exported.sidecar.d
    fed = port_feeds(memory(np.arange(D)[None] < 9, d, threshold=0))
    one = host(session, IDS[:1, :1], np.ones((1, 1), np.int64), **fed)
    assert [step["memory.route_out"].tolist() for step in one] == [[1]] * STEPS
    past = {
        name.replace("present", "past_key_values"): value
        for name, value in one[-1].items()
        if name.startswith("present")
    }
    feeds = {
        "input_ids": IDS[:1, :2], "attention_mask": np.ones((1, STEPS + 2), np.int64), **past,
        "position_ids": np.array([[STEPS, STEPS + 1]]),
    }  # fmt: skip
    assert session.run(["memory.route_out"], feeds | ports.empty(D, d)) == [[-1]]


# --- What it needs -------------------------------------------------------------------------------


def test_a_graph_without_such_a_cache_is_refused(three_nodes) -> None:
    with pytest.raises(GraphError, match="no place for a route in its cache") as caught:
        layers(three_nodes().graph)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 3}, {"num_hidden_layers": 4}),
        *(({name: 2}, {name: 3}) for name in LAYERS),
        ({"num_hidden_layers": None, "n_layer": 2}, {"num_hidden_layers": None, "n_layer": 3}),
        (
            {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]},
            {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
        ),
        (
            {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
            {"num_layers": 3, "attention_types": [[["global", "local"], 1], [["global"], 1]]},
        ),
    ],
)
def test_the_configuration_says_one_layer_more(tmp_path: Path, config, expected) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    one_layer_more(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == expected


def test_a_configuration_without_layers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="names no number of layers") as raised:
        one_layer_more(tmp_path)
    assert raised.value.hint == "export it with --ports optional or required"


def test_a_gpt_neo_is_a_configuration_still(tmp_path: Path) -> None:
    GPTNeoConfig(num_layers=4, attention_types=[[["global", "local"], 2]]).save_pretrained(tmp_path)
    one_layer_more(tmp_path)
    found = GPTNeoConfig.from_pretrained(tmp_path)
    assert found.num_layers == len(found.attention_layers) == 5


@pytest.mark.parametrize("kind", ["required", "recurrent", "cache"])
def test_ports_of_an_earlier_version_are_refused(llama, tmp_path: Path, kind: ports.Kind) -> None:
    model = onnx.load(llama.out / "model.onnx")
    model.graph.input.remove(next(v for v in model.graph.input if v.name == "memory.feature"))
    with pytest.raises(GraphError, match=r"no input memory\.feature") as caught:
        as_kind(model, kind, tmp_path)
    assert caught.value.hint
