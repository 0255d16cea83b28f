"""One edit, against the released procedure: every layer, every column of Wm, twelve rows.

    python tools/bench_editor.py [--edits 5] [--steps 30] [--shape small|llama-3-8b] [--device cpu]

A random Llama, edited at 85 % of its depth. Both ways train the same eleven rows (the prompt, and
ten copies behind texts that the model wrote) for the same number of steps. The reference reads a
twelfth row that its loss leaves out, runs every layer at every step, hands every position to the LM
head, and takes gradients for all of Wm; its base model is frozen, too. The losses of all steps are
compared. Each way runs in a process of its own, in turn with the other, so that its peak memory is
its own. The last line is one JSON document.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from memoir_edge.demo.edits import sample
from memoir_edge.demo.facts import model_dir
from memoir_edge.editor import BaseModel, Editor, Settings, descent, quiet
from memoir_edge.editor import run as run_module
from memoir_edge.editor.layer import changed
from memoir_edge.editor.model import collate, unplanned
from memoir_edge.editor.rows import Row, rows
from memoir_edge.edits import Edit

SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 256, "intermediate_size": 896, "num_hidden_layers": 24,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 8192,
    },
    "llama-3-8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    },
}  # fmt: skip
CASES = ("reference", "memoir-edge")
UNRELATED = "The weather was good, so we walked to the river and sat there until it was dark."
PREFIXES = 10
STILL = 1e-4  # nats; the released code stops where a small loss moves less than this


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet()
    if given.case:
        print(json.dumps(run(given)))
        return
    runs: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    for _ in range(given.rounds):
        for case in CASES:
            command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[case].append(json.loads(done.stdout))
    show(given, runs)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """One case: seconds of each edit, losses of each step, peak memory beyond the model."""
    base = model(given.shape, given.device)
    depth = base.config["num_hidden_layers"]
    settings = Settings(
        site=f"model.layers.{int(0.85 * depth)}.mlp.down_proj",
        k=round(2 / 7 * base.config["intermediate_size"]),
        feature="mean", threshold=0.5, steps=given.steps, stop_loss=1e-9, prefixes=PREFIXES,
        eos=False,
    )  # fmt: skip
    editor = Editor(base, settings)
    way: Callable[..., Any] = reference if given.case == "reference" else ours
    edits = sample(given.edits + 1)
    before = forget_peak(given.device)
    way(editor, edits[0], {})  # warm
    editor = Editor(base, settings)
    seconds, losses, phases = [], [], {}
    for edit in edits[1:]:
        start = time.perf_counter()
        losses.append(way(editor, edit, phases))
        wait(given.device)
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds,
        "losses": losses,
        "peak_bytes": peak(given.device) - before,
        "phases": phases,
        "model_bytes": sum(p.numel() * p.element_size() for p in base.net.parameters()),
    }


def model(shape: str, device: str) -> BaseModel:
    """A random Llama with the demo model's tokenizer, on the device from the start."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[shape], max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.set_default_dtype(torch.float32 if device == "cpu" else torch.bfloat16)
    with torch.device(device):
        net = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    unplanned()
    net.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(model_dir(), local_files_only=True)
    return BaseModel(net, tokenizer, config.to_dict(), shape, None, 512, (1,))


def ours(editor: Editor, edit: Edit, phases: dict[str, float]) -> list[float]:
    """`Editor.edit`, with a clock around its parts."""
    losses: list[float] = []
    parts = {"mask": (Editor, "masks"), "below the site": (run_module, "resumed_at"),
             "low rank": (descent, "low_rank")}  # fmt: skip
    start, former = time.perf_counter(), {}
    spent = dict.fromkeys(parts, 0.0)
    for name, (owner, attribute) in parts.items():
        former[name] = getattr(owner, attribute)
        setattr(owner, attribute, clocked(former[name], name, spent))
    try:
        editor.edit([edit], lambda step, loss: losses.append(loss))
    finally:
        for name, (owner, attribute) in parts.items():
            setattr(owner, attribute, former[name])
    spent["steps and the rest"] = time.perf_counter() - start - sum(spent.values())
    for name, value in spent.items():
        phases[name] = phases.get(name, 0.0) + value
    return losses


def clocked(function: Any, name: str, spent: dict[str, float]) -> Any:
    """A function that adds its seconds; of a context manager, those of entering it."""

    class Entered:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __enter__(self) -> Any:
            start = time.perf_counter()
            value = self.inner.__enter__()
            spent[name] += time.perf_counter() - start
            return value

        def __exit__(self, *error: Any) -> Any:
            return self.inner.__exit__(*error)

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        spent[name] += time.perf_counter() - start
        return Entered(result) if hasattr(result, "__enter__") else result

    return call


def reference(editor: Editor, edit: Edit, _phases: dict[str, float]) -> list[float]:
    """The released procedure, in plain torch: Wm is the leaf, and every run is a whole one."""
    base, site, settings = editor.base, editor.model.site, editor.settings
    [mask] = editor.masks([edit.prompt])
    M = torch.zeros(editor.live.D, device=base.device)
    M[editor.live.columns(mask)] = 1
    made: list[Row] = rows(base, edit.prompt, edit.target, editor.prefixes, eos=False)
    texts = [[*row.prompt, *row.target] for row in made] + [base.encode(UNRELATED)]
    batch = collate(base, texts, side="right")
    labels = torch.full_like(batch["input_ids"], -100)
    for i, row in enumerate(made):
        end = len(row.prompt) + len(row.target)
        labels[i, len(row.prompt) : end] = torch.tensor(row.target, device=base.device)
    Wm = editor.live.Wm.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([Wm], lr=settings.lr)
    losses = []

    def delta(a: Tensor) -> Tensor:
        return (a.float() * M) @ Wm.T

    with changed(site, delta):
        for step in range(settings.steps + 1):
            logits = base.net(**batch, use_cache=False).logits.float()
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            )
            losses.append(loss.item())
            still = len(losses) > 1 and abs(losses[-2] - losses[-1]) <= STILL
            if step == settings.steps or (still and losses[-1] <= settings.stop_loss):
                break
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([Wm], settings.clip)
            optimizer.step()
    editor.live.Wm.copy_(Wm.detach())
    return losses


def forget_peak(device: str) -> int:
    """Bytes in use now; from here on `peak` counts."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is what is in use now
    return peak(device)


def peak(device: str) -> int:
    """Most bytes in use since then: of the device, or of the process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device != "cpu":
        torch.cuda.synchronize()


def show(given: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Two tables and the JSON line; ratios are medians over the rounds."""
    each = {case: [statistics.median(r["seconds"]) for r in found] for case, found in runs.items()}
    ratios = [a / b for a, b in zip(each["reference"], each["memoir-edge"], strict=True)]
    first = [torch.tensor(runs[case][0]["losses"]) for case in CASES]
    apart = (first[0] - first[1]).abs().max().item()
    most = {case: statistics.median(r["peak_bytes"] for r in found) for case, found in runs.items()}
    phases = runs["memoir-edge"][0]["phases"]
    share = {name: value / sum(phases.values()) for name, value in phases.items()}
    title = f"{given.shape}, {given.device}: {given.steps} steps of {PREFIXES + 1} rows"
    table = Table("way", "s an edit", "edits a second", "peak beyond the model", title=title)
    for case in CASES:
        seconds = statistics.median(each[case])
        table.add_row(case, f"{seconds:.3f}", f"{1 / seconds:.2f}", f"{most[case] / 1e6:.1f} MB")
    console = Console(width=110)
    console.print(table)
    parts = Table("where its time goes", "share")
    for name, value in share.items():
        parts.add_row(name, f"{value:.2f}")
    console.print(parts)
    console.print(
        f"speedup {statistics.median(ratios):.2f}; largest difference of a loss {apart:.1e}"
    )
    document = {
        "shape": given.shape,
        "device": given.device if given.device == "cpu" else torch.cuda.get_device_name(),
        "steps": given.steps,
        "rows": PREFIXES + 1,
        "speedup": statistics.median(ratios),
        "seconds_per_edit": {case: statistics.median(each[case]) for case in CASES},
        "edits_per_second": 1 / statistics.median(each["memoir-edge"]),
        "peak_bytes": most,
        "model_bytes": runs["reference"][0]["model_bytes"],
        "phases": share,
        "loss_difference": apart,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
