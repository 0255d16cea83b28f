"""A graph of fused operators, as onnxruntime-genai's builder makes it of a Llama.

Its operators, names, inputs, and sizes that have a name only; float32. The builder itself is run in
an environment of its own (tests/exporter/test_builder.py).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

FUSED = {"GroupQueryAttention", "SkipSimplifiedLayerNormalization"}
B, T, S = "batch_size", "sequence_length", "total_sequence_length"
Array = np.ndarray


class Graph:
    """Nodes and weights as they come."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        domain = "com.microsoft" if op in FUSED else ""
        attributes = {"name": f"/{outputs[0]}/{op}"} | attributes
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def product(self, x: str, path: str, W: Array) -> str:
        weight = self.weight(f"{path}.weight", W.T)
        name = path.replace(".", "/").replace("layers/", "layers.")
        return self.node("MatMul", [x, weight], f"{path}/y", name=f"/{name}/MatMul")


def fused(model: Path, out: Path) -> Path:
    """Write the graph of a transformers folder and its tokenizer, without a configuration."""
    config = json.loads((model / "config.json").read_text())
    stored = load_file(model / "model.safetensors")
    W = {name.removeprefix("model."): w.astype(np.float32) for name, w in stored.items()}
    graph = Graph()
    _lengths(graph)
    angles = _angles(config)
    graph.weight("cos", np.cos(angles).astype(np.float32))
    graph.weight("sin", np.sin(angles).astype(np.float32))
    x = graph.node("Gather", [graph.weight("embed", W["embed_tokens.weight"]), "input_ids"], "x")
    branch = None
    for i in range(config["num_hidden_layers"]):
        x, branch = _block(graph, W, config, i, x, branch)
    _, y = _norm(graph, W, config, "norm.weight", x, branch)
    head = W.get("lm_head.weight", W["embed_tokens.weight"])
    inputs = [y, graph.weight("lm_head.weight", head.T)]
    graph.node("MatMul", inputs, "logits", name="/lm_head/MatMul")
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(_model(graph, config), out / "model.onnx")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / file, out)
    return out


def _lengths(graph: Graph) -> None:
    """What attention is told of its rows: each one's last position, and the longest length."""
    one = graph.weight("one", np.array([1]))
    graph.node("ReduceSum", ["attention_mask", one], "tokens", keepdims=0)
    graph.node("Sub", ["tokens", one], "last")
    graph.node("Cast", ["last"], "seqlens_k", to=TensorProto.INT32)
    graph.node("Shape", ["attention_mask"], "width", start=1)
    graph.node("Squeeze", ["width"], "longest")
    graph.node("Cast", ["longest"], "total_length", to=TensorProto.INT32)


def _head(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _angles(config: dict[str, Any]) -> Array:
    h, base = _head(config), config.get("rope_theta", 10000.0)
    steps = np.arange(config["max_position_embeddings"])
    return np.outer(steps, base ** (-np.arange(0, h, 2) / h))


def _norm(
    graph: Graph, W: dict[str, Array], config: dict[str, Any], name: str, x: str, more: str | None
) -> tuple[str, str]:
    """The residual stream with a branch added, and its norm."""
    scale, eps = graph.weight(name, W[name]), config["rms_norm_eps"]
    if more is None:
        op, y = "SimplifiedLayerNormalization", f"{name}/y"
        return x, graph.node(op, [x, scale], y, axis=-1, epsilon=eps)
    outputs = (f"{name}/y", "", "", f"{name}/sum")
    graph.node("SkipSimplifiedLayerNormalization", [x, more, scale], *outputs, epsilon=eps)
    return outputs[3], outputs[0]


def _block(
    graph: Graph, W: dict[str, Array], config: dict[str, Any], i: int, x: str, branch: str | None
) -> tuple[str, str]:
    at, mlp = f"layers.{i}", f"model.layers.{i}.mlp"
    x, y = _norm(graph, W, config, f"{at}.input_layernorm.weight", x, branch)
    qkv = np.concatenate([W[f"{at}.self_attn.{part}_proj.weight"] for part in "qkv"])
    past = [f"past_key_values.{i}.{part}" for part in ("key", "value")]
    present = [f"present.{i}.{part}" for part in ("key", "value")]
    read = [graph.product(y, f"model.{at}.attn.qkv_proj", qkv), "", "", *past]
    y = graph.node(
        "GroupQueryAttention",
        [*read, "seqlens_k", "total_length", "cos", "sin"],
        f"{at}.attended",
        *present,
        num_heads=config["num_attention_heads"],
        kv_num_heads=config["num_key_value_heads"],
        do_rotary=1,
    )
    branch = graph.product(y, f"model.{at}.attn.o_proj", W[f"{at}.self_attn.o_proj.weight"])
    x, y = _norm(graph, W, config, f"{at}.post_attention_layernorm.weight", x, branch)
    gate = graph.product(y, f"{mlp}.gate_proj", W[f"{at}.mlp.gate_proj.weight"])
    up = graph.product(y, f"{mlp}.up_proj", W[f"{at}.mlp.up_proj.weight"])
    silu = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{at}.open")], f"{at}.silu")
    a = graph.node("Mul", [silu, up], f"{at}.a")
    return x, graph.product(a, f"{mlp}.down_proj", W[f"{at}.mlp.down_proj.weight"])


def _model(graph: Graph, config: dict[str, Any]) -> onnx.ModelProto:
    info, ids = helper.make_tensor_value_info, TensorProto.INT64
    inputs = [info("input_ids", ids, [B, T]), info("attention_mask", ids, [B, S])]
    outputs = [info("logits", TensorProto.FLOAT, [B, T, config["vocab_size"]])]
    for i in range(config["num_hidden_layers"]):
        for part in ("key", "value"):
            heads = config["num_key_value_heads"]
            past = [B, heads, "past_sequence_length", "kv_cache_dim"]
            inputs.append(info(f"past_key_values.{i}.{part}", TensorProto.FLOAT, past))
            present = [B, heads, S, "kv_cache_dim"]
            outputs.append(info(f"present.{i}.{part}", TensorProto.FLOAT, present))
    made = helper.make_graph(graph.nodes, "fused", inputs, outputs, graph.weights)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=imports, ir_version=10)
