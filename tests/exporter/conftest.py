"""Tiny models, their graphs, and a greedy loop over a graph; nothing is downloaded."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from memoir_edge import ports, tophash
from memoir_edge.errors import MemoirEdgeError
from memoir_edge.memory import Base, Entry, Memory, from_dense
from memoir_edge_exporter import Exported, export
from memoir_edge_exporter._base_graph import base_graph

Feeds = dict[str, np.ndarray]


def open_graph(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # one warning for each overridable initializer
    source = str(model / "model.onnx") if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="session", name="open_graph")
def _open_graph() -> Callable[..., onnxruntime.InferenceSession]:
    return open_graph


# --- transformers models -------------------------------------------------------------------------


def save_tokenizer(folder: Path) -> None:
    """Bytes are tokens; <s> is 0 and </s> 1."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1} | {letter: i + 2 for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)


def save_llama(folder: Path, **changes: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 50,  # no multiple of 8
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    config = LlamaConfig(**(sizes | changes), bos_token_id=0, eos_token_id=1, initializer_range=0.3)
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_gpt2(folder: Path) -> Path:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=258, n_embd=32, n_inner=52, n_layer=2, n_head=4, n_positions=128,
        bos_token_id=0, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@dataclass
class Made:
    """A model folder, its base graph's folder, and the export with ports."""

    model: Path
    base: Path
    exported: Exported

    @property
    def out(self) -> Path:
        return self.exported.out

    @property
    def site(self) -> str:
        return self.exported.sidecar.site

    def load(self, dtype: str = "float32") -> Any:
        """The model in torch."""
        import torch
        from transformers import AutoModelForCausalLM

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return AutoModelForCausalLM.from_pretrained(
                self.model, dtype=getattr(torch, dtype)
            ).eval()


def make(folder: Path, save: Callable[[Path], Path], dtype: str = "fp32") -> Made:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = save(folder / "model")
    base_graph(model, folder / "base", dtype)
    return Made(model, folder / "base", export(model=model, out=folder / "out", dtype=dtype))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("llama"), save_llama)


@pytest.fixture(scope="session")
def llama_fp16(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("llama16"), save_llama, "fp16")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("gpt2"), save_gpt2)


@pytest.fixture(params=["llama", "gpt2", "llama_fp16"])
def made(request: pytest.FixtureRequest) -> Made:
    return request.getfixturevalue(request.param)


# --- Running a graph -----------------------------------------------------------------------------


@dataclass
class Graph:
    """A decoder graph and the empty cache that it starts with."""

    session: onnxruntime.InferenceSession
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [output.name for output in self.session.get_outputs()]

    def run(
        self, ids: np.ndarray, attention: np.ndarray, past: Feeds | None = None, **ports: Any
    ) -> Feeds:
        """One step: ids [B, T], attention [B, past + T]; `ports` without the leading `memory.`."""
        feeds: Feeds = {
            "input_ids": ids,
            "attention_mask": attention,
            "position_ids": np.maximum(attention.cumsum(1) - 1, 0)[:, -ids.shape[1] :],
        }
        feeds |= past if past is not None else self.nothing(len(ids))
        feeds |= {f"memory.{name}": value for name, value in ports.items()}
        return dict(zip(self.names, self.session.run(None, feeds), strict=True))

    def nothing(self, B: int) -> Feeds:
        caches = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values")]
        dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        return {i.name: np.zeros((B, i.shape[1], 0, i.shape[3]), dtypes[i.type]) for i in caches}

    def greedy(
        self, ids: np.ndarray, attention: np.ndarray, steps: int, **ports: Any
    ) -> tuple[np.ndarray, list[np.ndarray], Feeds]:
        """Tokens [B, steps], last-token logits of each step, and the prompt's routing outputs.

        The route is decided on the prompt and held, as the runtime does.
        """
        out = self.run(ids, attention, **ports)
        routing, logits, tokens = out, [], []
        held = dict(ports)
        if "memory.route_out" in out and ports:
            held |= {"route": out["memory.route_out"]}
            held.pop("span", None)
        for _ in range(steps):
            logits.append(out["logits"][:, -1])
            tokens.append(logits[-1].argmax(-1))
            attention = np.concatenate([attention, np.ones((len(ids), 1), np.int64)], axis=1)
            past = {
                name.replace("present", "past_key_values"): value
                for name, value in out.items()
                if name.startswith("present")
            }
            out = self.run(tokens[-1][:, None], attention, past, **held)
        return np.stack(tokens, axis=1), logits, routing


@pytest.fixture(scope="session", name="Graph")
def _graph() -> Callable[[Path], Graph]:
    return lambda model: Graph(open_graph(model))


# --- Memories ------------------------------------------------------------------------------------


def memory(
    masks: np.ndarray, d: int, *, threshold: float = 0.8, seed: int = 0, size: float = 1.0
) -> Memory:
    """A memory with a random Wm [d, D] and the given masks [R, D], each an edit's own."""
    rng = np.random.default_rng(seed)
    R, D = masks.shape
    return from_dense(
        rng.normal(scale=size, size=(d, D)).astype(np.float32),
        bank=tophash.pack(masks),
        site="site",
        feature="mean",
        k=int(masks[0].sum()),
        base=Base("tiny"),
        owner=np.arange(R, dtype=np.int32),
        thresholds=np.full(R, threshold, np.float32),
        center=np.zeros(D, np.float32),
        scale=np.ones(D, np.float32),
        permutation=np.random.default_rng(7).permutation(D).astype(np.int32),
        edits=tuple(Entry(f"edit {row}", row) for row in range(R)),
    )


@pytest.fixture(scope="session", name="memory")
def _memory() -> Callable[..., Memory]:
    return memory


def port_feeds(found: Memory) -> Feeds:
    """A memory's tensors under the ports' short names, as `Graph.run` takes them."""
    return {name.removeprefix("memory."): value for name, value in ports.feeds(found).items()}


@pytest.fixture(scope="session", name="port_feeds")
def _port_feeds() -> Callable[[Memory], Feeds]:
    return port_feeds


# --- A decoder of three nodes --------------------------------------------------------------------

SITE = "/model/layers.0/mlp/down_proj"


def three_nodes(
    *,
    product: str = "MatMul",
    opset: int = 18,
    mask: int = TensorProto.INT64,
    D: int = 12,
    d: int = 5,
    V: int = 9,
) -> onnx.ModelProto:
    """Embedding, the site `model.layers.0.mlp.down_proj`, and a head; no attention, no cache."""
    rng = np.random.default_rng(0)
    weights, nodes = PRODUCTS[product](D, d)
    head = {"embed": rng.normal(size=(V, D)), "head": rng.normal(size=(d, V))}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["embed", "input_ids"], ["a"], name="/model/embed/Gather"),
            *nodes,
            helper.make_node("MatMul", ["W0_a", "head"], ["logits"], name="/lm_head/MatMul"),
        ],
        "three_nodes",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"]),
            helper.make_tensor_value_info("attention_mask", mask, ["B", "S"]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", V])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in head.items()]
        + [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=7)


Parts = tuple[Feeds, list[onnx.NodeProto]]


def down(D: int, d: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(D, d)).astype(np.float32)


def matmul(D: int, d: int) -> Parts:
    return {"down": down(D, d)}, [
        helper.make_node("MatMul", ["a", "down"], ["W0_a"], name=f"{SITE}/MatMul")
    ]


def transposed(D: int, d: int) -> Parts:
    return {"down.t": down(D, d).T.copy()}, [
        helper.make_node("Transpose", ["down.t"], ["down"], perm=[1, 0], name=f"{SITE}/Transpose"),
        helper.make_node("MatMul", ["a", "down"], ["W0_a"], name=f"{SITE}/MatMul"),
    ]


def gemm(D: int, d: int) -> Parts:
    """Batch and tokens folded into one axis, with a bias."""
    weights = {"down.t": down(D, d).T.copy(), "bias": np.zeros(d, np.float32)}
    return weights | {"BT,D": np.array([-1, D]), "d": np.array([d])}, [
        helper.make_node("Reshape", ["a", "BT,D"], ["a2"], name=f"{SITE}/Reshape"),
        helper.make_node("Gemm", ["a2", "down.t", "bias"], ["y2"], name=f"{SITE}/Gemm", transB=1),
        helper.make_node("Shape", ["input_ids"], ["BT"]),
        helper.make_node("Concat", ["BT", "d"], ["BTd"], axis=0),
        helper.make_node("Reshape", ["y2", "BTd"], ["W0_a"], name=f"{SITE}/Reshape_1"),
    ]


def nbits(D: int, d: int) -> Parts:
    """Four bits a weight, in blocks of 32, as onnxruntime-genai writes."""
    rng, blocks = np.random.default_rng(1), -(-D // 32)
    weights: Feeds = {
        "q": rng.integers(0, 256, (d, blocks, 16), dtype=np.uint8),
        "scales": rng.random(d * blocks).astype(np.float32),
    }
    return weights, [
        helper.make_node(
            "MatMulNBits", ["a", "q", "scales"], ["W0_a"], name=f"{SITE}/MatMul_Q4",
            domain="com.microsoft", K=D, N=d, bits=4, block_size=32,
        )
    ]  # fmt: skip


def eight_bits(D: int, d: int) -> Feeds:
    rng = np.random.default_rng(1)
    return {
        "q": rng.integers(0, 256, (D, d), dtype=np.uint8),
        "q.scale": np.float32([0.01])[0],
        "q.zero": np.uint8([128])[0],
    }


def integers(D: int, d: int) -> Parts:
    """Eight bits on both sides, as onnxruntime's dynamic quantization writes."""
    return eight_bits(D, d), [
        helper.make_node("DynamicQuantizeLinear", ["a"], ["a.q", "a.scale", "a.zero"]),
        helper.make_node("Mul", ["a.scale", "q.scale"], ["both"], name=f"{SITE}/MatMul_scales_mul"),
        helper.make_node(
            "MatMulInteger", ["a.q", "q", "a.zero", "q.zero"], ["sum"], name=f"{SITE}/MatMul_quant"
        ),
        helper.make_node("Cast", ["sum"], ["sum.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["sum.float", "both"], ["W0_a"], name=f"{SITE}/MatMul_scale_mul"),
    ]


def dynamic(D: int, d: int) -> Parts:
    """The same as one operator, as onnxruntime fuses it."""
    return eight_bits(D, d), [
        helper.make_node(
            "DynamicQuantizeMatMul", ["a", "q", "q.scale", "q.zero"], ["W0_a"],
            name=f"{SITE}/MatMul_quant", domain="com.microsoft",
        )
    ]  # fmt: skip


PRODUCTS = {
    "MatMul": matmul, "transposed": transposed, "Gemm": gemm,
    "MatMulNBits": nbits, "MatMulInteger": integers, "DynamicQuantizeMatMul": dynamic,
}  # fmt: skip


@pytest.fixture(scope="session", name="three_nodes")
def _three_nodes() -> Callable[..., onnx.ModelProto]:
    return three_nodes


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Path]:
    """A folder as another exporter leaves it: a graph, a tokenizer, a configuration."""

    def write(model: onnx.ModelProto, **options: Any) -> Path:
        folder = tmp_path / "given"
        folder.mkdir(exist_ok=True)
        onnx.save(model, folder / "model.onnx", **options)
        save_tokenizer(folder)
        (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
        return folder

    return write


@pytest.fixture(scope="session")
def refused() -> Callable[..., MemoirEdgeError]:
    """Asserts that an export is refused and leaves nothing; the error."""

    def make(
        tmp_path: Path, error: type[MemoirEdgeError], match: str, **arguments: Any
    ) -> MemoirEdgeError:
        before = set(tmp_path.rglob("*"))
        with pytest.raises(error, match=match) as caught:
            export(out=tmp_path / "out", **arguments)
        assert set(tmp_path.rglob("*")) == before
        assert caught.value.hint
        return caught.value

    return make
