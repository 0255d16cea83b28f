"""`memoir-edge demo`: the whole way, from edits to a torch-free runtime, on a real chat model."""

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
from memoir_edge.demo.models import UnavailableError
from memoir_edge.demo.stages import Shown, Stage, chat_model, embedded
from memoir_edge.errors import InputError, MemoirEdgeError

if TYPE_CHECKING:
    from memoir_edge_runtime import Prompt, Session

HEAVY = ("torch", "transformers", "onnx")


def command(
    *,
    embedded: bool = False,
    keep: Path | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Edit ten facts of a chat model and serve them on ONNX Runtime.

    SmolLM2-135M-Instruct and a sentence encoder are fetched once, 190 MB. Where they cannot be had
    the small model that ships with the package is shown. Exit code 1 if an edit, a neighbour or the
    base model is not as it should be.

    Args:
        embedded: Show the small model that ships with the package.
        keep: Leave all files in this new folder, to go on with.
    """
    if keep is not None and keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
        raise InputError(f"{keep} is no empty folder", hint="give a new folder")
    stage = _stage(embedded, output)
    holder = tempfile.TemporaryDirectory() if keep is None else nullcontext(str(keep))
    with holder as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        return _demo(stage, folder, output, kept=keep is not None)


def _stage(small: bool, output: Output) -> Stage:
    if small:
        return embedded()
    try:
        return chat_model()
    except UnavailableError as error:
        output.say(f"no chat model can be fetched: {error}\nso this is the embedded model")
        return embedded()


def _demo(stage: Stage, folder: Path, output: Output, *, kept: bool) -> int:
    start = time.monotonic()
    edits = [each.edit for each in stage.shown]
    file, memory, graph = folder / "edits.jsonl", folder / "facts.safetensors", folder / "onnx"
    lines = [json.dumps(edit.full_record(), ensure_ascii=False) for edit in edits]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = ["--model", stage.model]
    if stage.encoder:
        model += ["--encoder", stage.encoder]

    output.say(f"1. {len(edits)} edits of {stage.title}, in PyTorch")
    applied = _run("apply", file, *model, "--out", memory)
    output.say(f"   {applied['seconds'] / len(edits):.2f} s an edit, {size(applied['bytes'])}")
    output.say("2. The base model as an ONNX graph with ports")
    exported = _run("export", *model, "--out", graph)
    output.say(f"   {exported['nodes']} nodes, {size(exported['bytes'])}")

    output.say("3. ONNX Runtime, in this process, without PyTorch: the memory is swapped in")
    session = open_session(graph)
    from memoir_edge_runtime import Options

    began = time.perf_counter()
    session.swap(memory)
    swap_ms = (time.perf_counter() - began) * 1000
    shown = [_ask(session, each, stage.room) for each in stage.shown]
    _table(shown, output)
    loaded = [name for name in HEAVY if name in sys.modules]
    output.say(
        f"   swapped in {swap_ms:.1f} ms; of {', '.join(HEAVY)} this process has loaded "
        f"{', '.join(loaded) or 'none'}"
    )

    output.say("4. The memory is swapped out: the base model is back")
    session.swap(None)
    back = session.generate([edit.prompt for edit in edits], Options(stage.room))
    same = [_line(r.text) == row["prompt"]["base"] for r, row in zip(back, shown, strict=True)]
    output.say(f"   {sum(same)} of {len(same)} answers are the base model's again")

    seconds = time.monotonic() - start
    output.say(
        f"{size(memory.stat().st_size)} of memory for {len(edits)} edits, "
        f"{size(exported['bytes'])} of graph, {seconds:.0f} s in all"
    )
    if kept:
        _next_steps(folder, edits[0].prompt, output)
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


def _ask(session: "Session", shown: Shown, room: int) -> dict[str, Any]:
    """An edit's prompt, its paraphrases and a neighbour, by the base model and with the memory."""
    from memoir_edge_runtime import Options

    edit = shown.edit
    asked = {"prompt": edit.prompt, **shown.paraphrases, "neighbour": shown.neighbour}
    prompts = [_prompt(session, how, text) for how, text in asked.items()]
    base = session.generate(prompts, Options(room), memory=session.base)
    now = session.generate(prompts, Options(room))
    rows = {
        how: {
            "asked": text,
            "base": _line(old.text),
            "memory": _line(new.text),
            "fired": new.fired,
            "overlap": round(new.routing.overlap, 4),
        }
        for (how, text), old, new in zip(asked.items(), base, now, strict=True)
    }
    own, neighbour = rows["prompt"], rows["neighbour"]
    took = own["memory"] == edit.target and own["fired"] == edit.id
    return {"id": edit.id, "held": took and neighbour["memory"] == neighbour["base"], **rows}


def _prompt(session: "Session", how: str, text: str) -> "Prompt":
    if how == "chat":
        return session.chat_prompt([{"role": "user", "content": text}])
    return session.prompt(text)


def _line(answer: str) -> str:
    """The first line of an answer that has several."""
    return answer.strip().partition("\n")[0]


def _table(shown: Sequence[dict[str, Any]], output: Output) -> None:
    asked = [how for how in shown[0] if how not in ("id", "held")]
    output.table(
        f"each edit: {', '.join(asked)}",
        ["asked", "base model", "with memory", "edit fired", "overlap"],
        [
            [row["asked"], row["base"], row["memory"], row["fired"], row["overlap"]]
            for each in shown
            for row in (each[how] for how in asked)
        ],
        group=len(asked),
    )


def _next_steps(folder: Path, prompt: str, output: Output) -> None:
    names = ("onnx", "facts.safetensors", "edits.jsonl")
    graph, memory, edits = (shlex.quote(str(folder / name)) for name in names)
    prompt = shlex.quote(prompt)
    output.say("Try next:")
    for command in (
        f"generate {graph} --memory {memory} --prompt {prompt}",
        f"generate {graph} --prompt {prompt}",
        f"inspect {memory}",
        f"verify {graph} --memory {memory}",
        f"eval {graph} --memory {memory} --edits {edits}",
    ):
        output.say(f"  memoir-edge {command}")
