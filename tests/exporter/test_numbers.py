"""Exported models against torch: no memory, one that does not fire, one that does."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from memoir_edge import ports, tophash
from memoir_edge.memory import Memory, to_dense

rng = np.random.default_rng(0)
IDS = rng.integers(2, 258, (4, 9))
LENGTHS = np.array([9, 3, 6, 1])
ATTENTION = (np.arange(9)[None] >= 9 - LENGTHS[:, None]).astype(np.int64)  # padded on the left
STEPS = 6


@contextlib.contextmanager
def edited(model, site: str, found: Memory, feature: str = "mean") -> Iterator[dict]:
    """The torch model with a memory at its site, the obvious way; yields what was routed.

    The first call decides by `state["span"]`, later ones hold that route.
    """
    state: dict = {}
    Wm = torch.from_numpy(to_dense(found))

    def hook(_, args, output):
        a = args[0].detach().float()
        if "routes" not in state:
            f = tophash.feature(a.numpy(), state["span"])
            masks = tophash.mask(f, found.center, found.scale, found.permutation, found.k)
            undecided = np.zeros(len(a), np.int64)
            state["masks"] = masks
            state["routes"] = tophash.route(
                tophash.pack(masks), undecided, found.bank, found.owner, found.thresholds, found.k
            )
        stored = tophash.unpack(found.bank, found.D)
        rows = [stored[r - 1] if r > 0 else np.zeros(found.D, bool) for r in state["routes"].route]
        masked = torch.where(torch.from_numpy(np.stack(rows))[:, None], a, 0)
        return output + (masked @ Wm.T).to(output.dtype)

    handle = model.get_submodule(site).register_forward_hook(hook)
    try:
        yield state
    finally:
        handle.remove()


@torch.no_grad()
def torch_greedy(
    model, ids: np.ndarray, attention: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Tokens [B, STEPS] and each step's logits, with cache."""
    past, logits, tokens = None, [], []
    ids, attention = torch.from_numpy(ids), torch.from_numpy(attention)
    for _ in range(STEPS):
        positions = (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = model(
                input_ids=ids, attention_mask=attention, position_ids=positions,
                past_key_values=past, use_cache=True,
            )  # fmt: skip
        past = out.past_key_values
        logits.append(out.logits[:, -1].float().numpy())
        ids = out.logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(ids.numpy()[:, 0])
        attention = torch.cat([attention, torch.ones_like(ids)], dim=1)
    return np.stack(tokens, axis=1), logits


def prompt_masks(made, like: Memory) -> np.ndarray:
    """The TopHash masks of IDS in torch."""
    model = made.load()
    with edited(model, made.site, like) as state:
        state["span"] = ATTENTION
        torch_greedy(model, IDS, ATTENTION)
    return state["masks"]


@pytest.fixture
def loaded(made, memory) -> Memory:
    """A memory of rows 0 and 2 of IDS, and of a prompt that is not there."""
    D, d = made.exported.sidecar.D, made.exported.sidecar.d
    k = round(0.3 * D)
    stranger = np.arange(D)[None] < k
    masks = prompt_masks(made, memory(stranger, d))
    return memory(np.concatenate([masks[[2]], stranger, masks[[0]]]), d, threshold=0.95, size=0.5)


def worst(ours: list[np.ndarray], truth: list[np.ndarray]) -> float:
    return max(float(abs(a.astype(np.float64) - b).max()) for a, b in zip(ours, truth, strict=True))


# --- The empty memory ----------------------------------------------------------------------------


def test_the_empty_memory_is_the_base_graph(made, Graph) -> None:
    tokens, logits, _ = Graph(made.base).greedy(IDS, ATTENTION, STEPS)
    ours, with_ports, routing = Graph(made.out).greedy(IDS, ATTENTION, STEPS)
    np.testing.assert_array_equal(ours, tokens)
    assert (routing["memory.route_out"] == -1).all()
    working = "float16" if made.exported.sidecar.dtype == "fp16" else "float32"
    # Truth: the model in float64. What the base graph loses of it, the one with ports may lose
    # twice. (float16 weights are no different from the float32 ones rounded.)
    truth = torch_greedy(made.load(working).double(), IDS, ATTENTION)[1]
    unavoidable, error = worst(logits, truth), worst(with_ports, truth)
    print(f"error {error:.3g}, of the base graph {unavoidable:.3g}")
    assert error <= 2 * unavoidable


def test_the_base_route_is_the_empty_memory_bit_for_bit(made, Graph, loaded, port_feeds) -> None:
    graph = Graph(made.out)
    base = np.full(len(IDS), -1)
    plain = graph.run(IDS, ATTENTION)
    held = graph.run(IDS, ATTENTION, route=base, **port_feeds(loaded))
    fired = graph.run(IDS, ATTENTION, **port_feeds(loaded))
    for name in (name for name in graph.names if not name.startswith("memory.")):
        np.testing.assert_array_equal(held[name], plain[name], err_msg=name)
        # Nor does a batch mate that fires change a row that does not.
        np.testing.assert_array_equal(fired[name][[1, 3]], plain[name][[1, 3]], err_msg=name)
    assert held["memory.overlap"].tolist() == [0] * 4


# --- A memory that fires -------------------------------------------------------------------------


def test_a_memory_answers_as_in_torch(made, Graph, loaded, port_feeds) -> None:
    model = made.load()
    base, _ = torch_greedy(model, IDS, ATTENTION)
    with edited(model, made.site, loaded) as state:
        state["span"] = ATTENTION
        tokens, logits = torch_greedy(model, IDS, ATTENTION)
    ours, onnx_logits, routing = Graph(made.out).greedy(IDS, ATTENTION, STEPS, **port_feeds(loaded))
    assert state["routes"].route.tolist() == [3, -1, 1, -1]
    np.testing.assert_array_equal(routing["memory.route_out"], state["routes"].route)
    np.testing.assert_array_equal(routing["memory.candidate"], state["routes"].candidate)
    np.testing.assert_allclose(routing["memory.overlap"], state["routes"].overlap, atol=1e-3)
    print(f"largest difference of logits {worst(onnx_logits, logits):.3g}")
    np.testing.assert_array_equal(ours, tokens)
    assert (tokens[[0, 2]] != base[[0, 2]]).any(axis=1).all()  # the memory did something


def test_a_row_alone_is_the_row_in_a_batch(made, Graph, loaded, port_feeds) -> None:
    graph = Graph(made.out)
    batch, _, routing = graph.greedy(IDS, ATTENTION, STEPS, **port_feeds(loaded))
    for row, length in enumerate(LENGTHS):
        ids, attention = IDS[[row], -length:], np.ones((1, length), np.int64)
        single, _, alone = graph.greedy(ids, attention, STEPS, **port_feeds(loaded))
        assert alone["memory.route_out"][0] == routing["memory.route_out"][row]
        np.testing.assert_allclose(
            alone["memory.overlap"][0], routing["memory.overlap"][row], atol=0.1
        )
        np.testing.assert_array_equal(single[0], batch[row])


def test_a_held_route_is_kept_by_every_step(made, Graph, loaded, port_feeds) -> None:
    graph = Graph(made.out)
    given = np.array([-1, 2, 3, 1])
    _, _, routing = graph.greedy(IDS, ATTENTION, STEPS, route=given, **port_feeds(loaded))
    assert routing["memory.route_out"].tolist() == given.tolist()
    assert routing["memory.candidate"].tolist() == [-1] * 4


def test_float16_is_as_good_as_float16(llama_fp16, Graph, memory, port_feeds) -> None:
    """Truth: the edited model in float32 with the same weights; torch in float16 is the measure."""
    D, d = llama_fp16.exported.sidecar.D, llama_fp16.exported.sidecar.d
    stranger = np.arange(D)[None] < 15
    masks = prompt_masks(llama_fp16, memory(stranger, d))
    found = memory(masks[[0, 2]], d, threshold=0.9, size=0.5)
    answers = {}
    for dtype in ("float32", "float16"):
        model = llama_fp16.load("float16").to(getattr(torch, dtype))
        with edited(model, llama_fp16.site, found) as state, torch.no_grad():
            state["span"] = ATTENTION
            ids, attention = torch.from_numpy(IDS), torch.from_numpy(ATTENTION)
            positions = (attention.cumsum(1) - 1).clamp(min=0)
            out = model(input_ids=ids, attention_mask=attention, position_ids=positions)
            answers[dtype] = out.logits[:, -1].float().numpy()
    run = Graph(llama_fp16.out).run(IDS, ATTENTION, **port_feeds(found))
    assert run["logits"].dtype == np.float16
    unavoidable = worst([answers["float16"]], [answers["float32"]])
    error = worst([run["logits"][:, -1]], [answers["float32"]])
    print(f"error {error:.3g}, of torch in float16 {unavoidable:.3g}")
    assert error <= 2 * unavoidable


# --- A trained model -----------------------------------------------------------------------------


def test_a_trained_model(tmp_path: Path, Graph, memory, port_feeds, published) -> None:
    folder = published("stories260K")
    from transformers import AutoModelForCausalLM

    from memoir_edge_exporter import export

    made = export(model=folder, out=tmp_path / "out")
    ids = np.random.default_rng(1).integers(3, 512, (2, 12))
    attention = np.ones_like(ids)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    base, _ = torch_greedy(model, ids, attention)
    like = memory(np.arange(made.sidecar.D)[None] < 49, made.sidecar.d)
    with edited(model, made.sidecar.site, like) as state:
        state["span"] = attention
        torch_greedy(model, ids, attention)
    found = memory(state["masks"][:1], made.sidecar.d, size=0.3)
    with edited(model, made.sidecar.site, found) as state:
        state["span"] = attention
        tokens, _ = torch_greedy(model, ids, attention)
    graph = Graph(made.out)
    ours, _, routing = graph.greedy(ids, attention, STEPS, **port_feeds(found))
    assert routing["memory.route_out"].tolist() == [1, -1]
    np.testing.assert_array_equal(ours, tokens)
    np.testing.assert_array_equal(graph.greedy(ids, attention, STEPS)[0], base)
    assert (tokens[0] != base[0]).any()
    assert set(ports.OUTPUTS) <= set(graph.names)
