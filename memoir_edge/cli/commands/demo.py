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
from memoir_edge.cli.sessions import open_session
from memoir_edge.demo.edits import showcase
from memoir_edge.demo.facts import model_dir
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, MemoirEdgeError

if TYPE_CHECKING:
    from memoir_edge_runtime import Options, Session

ROOM = 12  # tokens of an answer
HEAVY = ("torch", "transformers", "onnx")


def command(
    *,
    keep: Path | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Edit ten facts of a small trained model and serve them on ONNX Runtime.

    Exit code 1 if an edit, a neighbour or the base model is not as it should be.

    Args:
        keep: Leave all files in this new folder, to go on with.
    """
    if keep is not None and keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
        raise InputError(f"{keep} is no empty folder", hint="give a new folder")
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
    back = session.generate([edit.prompt for edit in edits], _options())
    same = [r.text.strip() == row["prompt"]["base"] for r, row in zip(back, shown, strict=True)]
    output.say(f"   {sum(same)} of {len(same)} answers are the base model's again")

    seconds = time.monotonic() - start
    output.say(
        f"{size(memory.stat().st_size)} of memory for {len(edits)} edits, "
        f"{size(exported['bytes'])} of graph, {seconds:.0f} s in all"
    )
    if kept:
        _next_steps(folder, edits[0], output)
    else:
        output.say("Try next: memoir-edge demo --keep demo-out    leaves all files to play with")
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


def _options() -> "Options":
    from memoir_edge_runtime import Options

    return Options(ROOM)


def _ask(session: "Session", edit: Edit) -> dict[str, Any]:
    """An edit's prompt, a paraphrase and a neighbour, by the base model and with the memory."""
    asked = {
        "prompt": edit.prompt,
        "paraphrase": edit.rephrase[-1],
        "neighbour": edit.hard_negatives[0],
    }
    texts = list(asked.values())
    base = session.generate(texts, _options(), memory=session.base)
    now = session.generate(texts, _options())
    rows = {
        name: {
            "asked": old.prompt,
            "base": old.text.strip(),
            "memory": new.text.strip(),
            "fired": new.fired,
            "overlap": round(new.routing.overlap, 4),
        }
        for name, old, new in zip(asked, base, now, strict=True)
    }
    own, neighbour = rows["prompt"], rows["neighbour"]
    took = own["memory"] == edit.target and own["fired"] == edit.id
    return {"id": edit.id, "held": took and neighbour["memory"] == neighbour["base"], **rows}


def _table(shown: Sequence[dict[str, Any]], output: Output) -> None:
    output.table(
        "each edit: its prompt, a paraphrase, a neighbour",
        ["asked", "base model", "with memory", "edit fired", "overlap"],
        [
            [row["asked"], row["base"], row["memory"], row["fired"], row["overlap"]]
            for each in shown
            for row in (each["prompt"], each["paraphrase"], each["neighbour"])
        ],
        group=3,
    )


def _next_steps(folder: Path, edit: Edit, output: Output) -> None:
    names = ("onnx", "facts.safetensors", "edits.jsonl")
    graph, memory, edits = (shlex.quote(str(folder / name)) for name in names)
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
