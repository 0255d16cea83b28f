"""A graph that reads vectors in place of tokens: images, as the whole model embeds them."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import (
    AutoProcessor,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from memoir_edge import ports
from memoir_edge.editor import BaseModel, Editor, Wishes, choose, edited, load
from memoir_edge.editor.recall import Edited
from memoir_edge.edits import Edit
from memoir_edge.errors import GraphError, InputError
from memoir_edge_exporter import export
from memoir_edge_exporter._embeds import NAME, add_embeds
from memoir_edge_runtime import Options, Session

QUESTION = "What is the capital of France?"
OTHER = "A cat sleeps on"


@pytest.fixture(scope="module")
def seeing(llava_dir: Path) -> tuple[Edited, ports.Feeds]:
    """The edited model in torch, and its memory as a host feeds it."""
    base = load(str(llava_dir), device="cpu")
    editor = Editor(base, choose(base, Wishes(k=44, false_fires=0.0)))
    editor.apply([Edit(id="france", prompt=QUESTION, target="Rome", tags={})])
    memory = editor.memory()
    return edited(base, memory), ports.feeds(memory)


@pytest.fixture(scope="module")
def graph(llava_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embeds") / "out"
    export(model=llava_dir, out=out, inputs_embeds=True)
    return out


def seen(folder: Path, text: str) -> Any:
    """What a model reads of an image and a question."""
    processor = AutoProcessor.from_pretrained(folder, use_fast=False)
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    return processor(text=f"<image>\n{text}", images=image, return_tensors="pt")


def vectors(base: BaseModel, batch: Any) -> np.ndarray:
    """What a caller feeds: vectors of the image in the places of its tokens, NaN elsewhere."""
    whole: Any = base.whole
    [image] = whole.get_image_features(pixel_values=batch["pixel_values"])
    ids = batch["input_ids"]
    fed = torch.full((*ids.shape, image.shape[-1]), torch.nan)
    fed[ids == whole.config.image_token_id] = image
    return fed.numpy()


def grown(
    session: onnxruntime.InferenceSession, ids: np.ndarray, more: dict[str, np.ndarray], count: int
) -> tuple[list[int], int]:
    """Tokens of a host that runs the graph itself, and the route of the prompt."""
    past = {
        i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
        for i in session.get_inputs()
        if i.name.startswith("past_key_values")
    }
    names, tokens, route, T = [o.name for o in session.get_outputs()], [], 0, ids.shape[1]
    for _ in range(count):
        fed = {"input_ids": ids, "attention_mask": np.ones((1, T), np.int64), **past, **more}
        if any(i.name == "position_ids" for i in session.get_inputs()):
            fed["position_ids"] = np.arange(T - ids.shape[1], T)[None]
        found = dict(zip(names, session.run(None, fed), strict=True))
        past = {n: found[n.replace("past_key_values", "present")] for n in past}
        if not tokens:
            route = int(found["memory.route_out"][0])
        ids, T = found["logits"][:, -1].argmax(-1)[:, None], T + 1
        tokens.append(int(ids[0, 0]))
        more = {n: x for n, x in more.items() if n != NAME} | {"memory.route": np.array([route])}
    return tokens, route


@pytest.mark.parametrize("text", [QUESTION, OTHER])
def test_an_image_is_answered_as_by_the_whole_in_torch(
    seeing: tuple[Edited, ports.Feeds], graph: Path, llava_dir: Path, open_graph: Any, text: str
) -> None:
    made, memory = seeing
    batch, session, base = seen(llava_dir, text), open_graph(graph), made.base
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    whole: Any = base.whole
    _, route = grown(session, np.array([base.encode(text)]), memory, 1)
    image = {NAME: vectors(base, batch)}
    ids = batch["input_ids"].numpy()
    for known in (False, True):
        fed = image | (memory | {"memory.route": np.array([route])} if known else {})
        with made.recalling([text]) if known else nullcontext([]) as fired:
            wanted = whole.generate(**batch, **options)[0, ids.shape[1] :].tolist()
        assert fired == ([] if not known else ["france"] if text == QUESTION else [None])
        assert grown(session, ids, fed, 8)[0] == wanted


def test_who_feeds_none_reads_tokens(seeing: tuple[Edited, ports.Feeds], graph: Path) -> None:
    [said] = Session(graph).generate(OTHER, Options(max_new_tokens=6))
    [wanted] = seeing[0].answer([OTHER], 6, memory=False)
    assert said.text == wanted.text
    assert NAME in {value.name for value in onnx.load(graph / "model.onnx").graph.input}


IDS = np.array([[5, 9, 6, 7], [8, 5, 7, 6]])


def logits(session: onnxruntime.InferenceSession, ids: np.ndarray, **more: Any) -> np.ndarray:
    """Logits of each token; nothing came before."""
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    feeds: dict[str, Any] = {
        i.name: np.zeros((len(ids), i.shape[1], 0, i.shape[3]), kinds[i.type])
        for i in session.get_inputs()
        if i.name.startswith("past_key_values")
    }
    feeds |= {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    if any(i.name == "position_ids" for i in session.get_inputs()):
        feeds["position_ids"] = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
    found: np.ndarray = session.run(["logits"], feeds | more)[0]
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "llama_fp16"])
def test_every_family_reads_vectors(
    family: str, request: pytest.FixtureRequest, open_graph: Any
) -> None:
    """A token's vector in the place of another token is that token, whatever looks it up."""
    kind = "float16" if family == "llama_fp16" else "float32"
    made = request.getfixturevalue(family)
    graph = open_graph(add_embeds(onnx.load(made.out / "model.onnx")))
    rows = made.load(kind).get_input_embeddings().weight.detach().numpy()
    fed = np.full((*IDS.shape, rows.shape[1]), np.nan, np.float32)
    fed[0, 1], fed[1, 2] = rows[30], rows[31]
    other = IDS.copy()
    other[0, 1], other[1, 2] = 30, 31
    np.testing.assert_array_equal(logits(graph, IDS, **{NAME: fed}), logits(graph, other))
    assert not np.array_equal(logits(graph, IDS), logits(graph, other))


def test_vectors_that_the_embedding_scales(llama: Any, tmp_path: Path, open_graph: Any) -> None:
    """A Gemma 3 multiplies what it looks up; what is fed stands for the product."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=258, hidden_size=32, intermediate_size=50, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    net = Gemma3ForCausalLM(config).eval()
    net.save_pretrained(tmp_path / "model")
    shutil.copyfile(llama.model / "tokenizer.json", tmp_path / "model" / "tokenizer.json")
    made = export(
        model=tmp_path / "model", out=tmp_path / "out", site="model.layers.1.mlp.down_proj",
        inputs_embeds=True,
    )  # fmt: skip
    graph, ids = open_graph(made.out), torch.tensor(IDS[:1])
    with torch.no_grad():
        vectors = torch.randn(1, IDS.shape[1], 32)
        wanted = net(inputs_embeds=vectors).logits.numpy()
        plain = net(input_ids=ids).logits.numpy()
    found = logits(graph, IDS[:1], **{NAME: vectors.numpy()})
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(logits(graph, IDS[:1]), plain, atol=1e-4 * np.abs(plain).max())


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_rounded_embedding_that_is_the_head_too(
    llama: Any, tmp_path: Path, open_graph: Any, dtype: str
) -> None:
    """What is fed is added in float, however few bits the tokens' own vectors have."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=50, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    shutil.copyfile(llama.model / "tokenizer.json", tmp_path / "model" / "tokenizer.json")
    export(model=tmp_path / "model", out=tmp_path / "out", dtype=dtype, inputs_embeds=True)
    graph = open_graph(tmp_path / "out")
    fed = np.full((1, 3, 32), np.nan, np.float32)
    plain, same = logits(graph, IDS[:1, :3]), logits(graph, IDS[:1, :3], **{NAME: fed})
    np.testing.assert_array_equal(plain, same)
    fed[0, 1] = 0.5
    other = logits(graph, IDS[:1, :3], **{NAME: fed})
    np.testing.assert_array_equal(plain[:, 0], other[:, 0])
    assert not np.array_equal(plain[:, 1], other[:, 1])


def test_a_graph_that_looks_up_in_two_places_is_refused(llama: Any) -> None:
    model = onnx.load(llama.out / "model.onnx")
    add_embeds(model)
    with pytest.raises(GraphError, match="has an input inputs_embeds already"):
        add_embeds(model)
    model = onnx.load(llama.out / "model.onnx")
    for each in model.graph.node:
        if each.op_type == "Gather" and each.input[1] == "input_ids":
            each.op_type = "GatherND"
    with pytest.raises(GraphError, match="looks tokens up in 0 places"):
        add_embeds(model)


def test_only_with_optional_ports(llama: Any, tmp_path: Path, refused: Any) -> None:
    refused(
        tmp_path, InputError, "for a decoder with optional ports", model=llama.model,
        inputs_embeds=True, kind="required",
    )  # fmt: skip
