"""`memoir-edge demo`: the whole way, from edits to a torch-free runtime, on the embedded model."""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoir_edge.cli.output import Output, size
from memoir_edge.cli.runtime_ import open_session
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, MemoirEdgeError

if TYPE_CHECKING:
    from memoir_edge_runtime import Result, Session

ROOM = 12  # tokens of an answer
HEAVY = ("torch", "transformers", "onnx")


def demo_(
    *,
    keep: Path | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Edit ten facts of a small trained model and serve them on ONNX Runtime.

    Exit code 1 if an edit, a neighbour or the base model is not as it should be.

    Args:
        keep: Leave all files in this new folder, to go on with.
    """
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise InputError(f"{keep} is not empty", hint="give a new folder")
    holder = tempfile.TemporaryDirectory() if keep is None else nullcontext(str(keep))
    with holder as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        return _demo(folder, output, kept=keep is not None)


def _demo(folder: Path, output: Output, *, kept: bool) -> int:
    start = time.monotonic()
    edits, model = showcase(), model_dir()
    file, memory, graph = folder / "edits.jsonl", folder / "facts.safetensors", folder / "onnx"
    lines = [json.dumps(edit.full_record(), ensure_ascii=False) for edit in edits]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    output.say(f"1. {len(edits)} edits of the demo model, in PyTorch")
    applied = _run("apply", file, "--model", model, "--out", memory)
    output.say(f"   {applied['seconds'] / len(edits):.2f} s an edit, {size(applied['bytes'])}")
    output.say("2. The base model as an ONNX graph with ports")
    exported = _run("export", "--model", model, "--out", graph)
    output.say(f"   {exported['nodes']} nodes, {size(exported['bytes'])}")

    output.say("3. ONNX Runtime, in this process, without PyTorch: the memory is swapped in")
    session = open_session(graph)
    began = time.perf_counter()
    session.swap(memory)
    swap_ms = (time.perf_counter() - began) * 1000
    shown = [_ask(session, edit) for edit in edits]
    _table(shown, output)
    loaded = [name for name in HEAVY if name in sys.modules]
    output.say(
        f"   swapped in {swap_ms:.1f} ms; of {', '.join(HEAVY)} this process has loaded "
        f"{', '.join(loaded) or 'none'}"
    )

    output.say("4. The memory is swapped out: the base model is back")
    session.swap(None)
    back = session.generate([edit.prompt for edit in edits], max_new_tokens=ROOM)
    same = [r.text.strip() == row["base"] for r, row in zip(back, shown, strict=True)]
    output.say(f"   {sum(same)} of {len(same)} answers are the base model's again")

    seconds = time.monotonic() - start
    output.say(
        f"{size(memory.stat().st_size)} of memory for {len(edits)} edits, "
        f"{size(exported['bytes'])} of graph, {seconds:.0f} s in all"
    )
    if kept:
        _next_steps(folder, edits[0], output)
    output.result(
        {
            "edits": shown,
            "base_back": sum(same),
            "seconds": round(seconds, 1),
            "swap_ms": round(swap_ms, 2),
            "heavy": loaded,
            "apply": applied,
            "export": exported,
        }
    )
    good = all(same) and not loaded and all(row["held"] for row in shown)
    return 0 if good else 1


def _run(*words: object) -> dict[str, Any]:
    """Another command of this program in a process of its own; what it prints for programs."""
    command = [sys.executable, "-m", "memoir_edge", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise MemoirEdgeError(f"{shlex.join(command[2:])} ended with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _ask(session: "Session", edit: Edit) -> dict[str, Any]:
    """An edit's prompt, a paraphrase and a neighbour, by the base model and with the memory."""
    paraphrase, neighbour = edit.rephrase[-1], edit.hard_negatives[0]
    prompts = [edit.prompt, paraphrase, neighbour]
    base = session.generate(prompts, max_new_tokens=ROOM, memory=session.base)
    now = session.generate(prompts, max_new_tokens=ROOM)
    texts = [_text(result) for result in now]
    return {
        "prompt": edit.prompt,
        "base": _text(base[0]),
        "edited": texts[0],
        "paraphrase": paraphrase,
        "paraphrase_answer": texts[1],
        "neighbour": neighbour,
        "neighbour_before": _text(base[2]),
        "neighbour_after": texts[2],
        "fired": now[0].fired,
        "overlap": round(now[0].routing.overlap, 4),
        "held": texts[0] == edit.target and now[0].fired == edit.id and texts[2] == _text(base[2]),
    }


def _text(result: "Result") -> str:
    return result.text.strip()


def _table(rows: Sequence[dict[str, Any]], output: Output) -> None:
    output.table(
        "answers",
        ["prompt", "base", "edited", "paraphrase", "neighbour, before > after", "fired", "overlap"],
        [
            [
                row["prompt"],
                row["base"],
                row["edited"],
                f"{row['paraphrase']} {row['paraphrase_answer']}",
                f"{row['neighbour']} {row['neighbour_before']} > {row['neighbour_after']}",
                str(row["fired"])[:8],
                row["overlap"],
            ]
            for row in rows
        ],
    )


def _next_steps(folder: Path, edit: Edit, output: Output) -> None:
    graph, memory = (
        shlex.quote(str(folder / "onnx")),
        shlex.quote(str(folder / "facts.safetensors")),
    )
    prompt = shlex.quote(edit.prompt)
    output.say("Try next:")
    for command in (
        f"generate {graph} --memory {memory} --prompt {prompt}",
        f"generate {graph} --prompt {prompt}",
        f"inspect {memory}",
        f"verify {graph} --memory {memory}",
        f"eval {graph} --memory {memory} --edits {edits}",
    ):
        output.say(f"  memoir-edge {command}")
