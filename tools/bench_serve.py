"""How many tokens a second the server writes, beside libraries that run the same model.

    python tools/bench_serve.py [--rounds 20] [--tokens 32] [--threads 1]

At 1, 8 and 32 streams, each round asks every way the same prompts, in an order drawn anew:

    serve      memoir-edge serve with a memory that half of the prompts reach: one HTTP stream each
    session    memoir_edge_runtime.Session with that memory, in this process: one batch
    optimum    optimum-onnx's ORTModelForCausalLM.generate, without memory: one batch
    genai      onnxruntime-genai's Generator, without memory: one batch; left out if not installed

The last two run the graph that optimum-onnx exports, the first two that graph with ports. All write
the same number of tokens, greedily. Medians of tokens a second, and of each round's ratio to
optimum. The last line is one JSON document.
"""

import argparse
import asyncio
import importlib.util
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from optimum.onnxruntime import ORTModelForCausalLM
from rich.console import Console
from rich.table import Table
from served import Made, Served, make, serving, streamed
from torch import Tensor

from memoir_edge.base import read_config
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor.model import padded
from memoir_edge_exporter._base_graph import base_graph
from memoir_edge_runtime import Options, Session

STREAMS = (1, 8, 32)
Write = Callable[[Sequence[str]], None]  # write the answers to these prompts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = make(folder, count=max(STREAMS) // 2)
        with serving(made, threads=given.threads) as served:
            figures = measure(ways(made, served, folder, given), made, given)
    show(figures)
    print(json.dumps(figures))


def ways(made: Made, served: Served, folder: Path, given: argparse.Namespace) -> dict[str, Write]:
    """Every way to write answers."""
    session = Session(made.graph, memory=made.a, threads=given.threads)
    base = folder / "base"
    base_graph(model_dir(), base, "fp32")
    found = {
        "serve": lambda prompts: asyncio.run(over_http(served.url, prompts, given.tokens)),
        "session": lambda prompts: in_process(session, prompts, given.tokens),
        "optimum": with_optimum(base, session, given),
    }
    if importlib.util.find_spec("onnxruntime_genai"):
        found["genai"] = with_genai(base, session, given)
    return found


async def over_http(url: str, prompts: Sequence[str], tokens: int) -> None:
    """A stream for each prompt."""

    async def one(prompt: str) -> None:
        wanted = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        async for _ in streamed(url, wanted):
            pass

    await asyncio.gather(*map(one, prompts))


def in_process(session: Session, prompts: Sequence[str], tokens: int) -> None:
    """All prompts as one batch."""
    rows = session.completions(prompts, Options(tokens, ignore_eos=True))
    for _ in session.complete(rows, session.generation):
        pass


def flush_right(session: Session, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and attention, `[B, T]` each."""
    return padded([session.prompt(prompt).row.ids for prompt in prompts], "left")


def with_optimum(base: Path, session: Session, given: argparse.Namespace) -> Write:
    """What transformers' users write."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = given.threads
    model = ORTModelForCausalLM.from_pretrained(base, session_options=options)

    def write(prompts: Sequence[str]) -> None:
        ids, attention = flush_right(session, prompts)
        model.generate(
            input_ids=ids, attention_mask=attention, do_sample=False, pad_token_id=2,
            min_new_tokens=given.tokens, max_new_tokens=given.tokens,
        )  # fmt: skip

    return write


def with_genai(base: Path, session: Session, given: argparse.Namespace) -> Write:
    """Onnxruntime's own loop. Its exporter wants a later transformers, so the graph is the same."""
    import onnxruntime_genai as genai

    (base / "genai_config.json").write_text(json.dumps(genai_config(base, given.threads)))
    model = genai.Model(str(base))

    def write(prompts: Sequence[str]) -> None:
        ids, _ = flush_right(session, prompts)
        params, length = genai.GeneratorParams(model), ids.shape[1] + given.tokens
        params.set_search_options(
            do_sample=False, batch_size=len(ids), min_length=length, max_length=length
        )
        generator = genai.Generator(model, params)
        generator.append_tokens(ids.numpy().astype(np.int32))
        while not generator.is_done():
            generator.generate_next_token()

    return write


def genai_config(base: Path, threads: int) -> dict[str, Any]:
    """What genai's exporter would have written beside the graph."""
    config = read_config(base)
    sizes = {
        name: config[name]
        for name in ("hidden_size", "num_attention_heads", "num_key_value_heads",
                     "num_hidden_layers")
    }  # fmt: skip
    return {
        "model": {
            "type": config["model_type"],
            "vocab_size": config["vocab_size"],
            "context_length": config["max_position_embeddings"],
            **{name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"intra_op_num_threads": threads, "provider_options": []},
                "head_size": config["head_dim"],
                **sizes,
                "inputs": {
                    **{n: n for n in ("input_ids", "attention_mask", "position_ids")},
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"past_present_share_buffer": False},
    }


def measure(found: Mapping[str, Write], made: Made, given: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of every way and number of streams."""
    prompts = [text for e in made.edits for text in (e.prompt, e.locality[0].prompt)]
    draw, figures = random.Random(0), dict[str, Any]()
    for streams in STREAMS:
        rates: dict[str, list[float]] = {name: [] for name in found}
        for round_ in range(given.rounds + 2):  # the first two warm up
            for name in draw.sample(list(found), len(found)):
                began = time.perf_counter()
                found[name](prompts[:streams])
                if round_ >= 2:
                    seconds = time.perf_counter() - began
                    rates[name].append(streams * given.tokens / seconds)
        for name, its in rates.items():
            ratios = [a / b for a, b in zip(its, rates["optimum"], strict=True)]
            figures[f"{name}_{streams}"] = {
                "tokens_per_second": statistics.median(its),
                "to_optimum": statistics.median(ratios),
            }
    return figures


def show(figures: Mapping[str, Any]) -> None:
    """A table for people."""
    table = Table("way and streams", "tokens a second", "to optimum", title="throughput")
    for name, its in figures.items():
        table.add_row(name, f"{its['tokens_per_second']:,.0f}", f"{its['to_optimum']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
