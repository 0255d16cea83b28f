"""Edits of an encoder-decoder, from PyTorch to ONNX Runtime, by either router.

    python tools/train_demo_model.py --architecture t5 --out DIR --work DIR/work
    python tools/experiments/t5.py --model DIR [--edits 50] [--seed 0] [--keys 0]
                                   [--ways activations ...]

Edits of facts that the model knows, by the defaults. Activations route, with two shares of near
misses that may reach an edit; or an encoder (MiniLM) does, with all built-in relations, and without
those of the test. With --keys, so many phrasings of each edit are its further keys, and the others
are asked. Each memory is asked twice all that its edits' records hold: in PyTorch, and by a
session on the exported graphs, into which it is swapped. `same` is the share of prompts that both
answer with the same text by the same edit, `held` of edits that hold when they are replayed on the
graphs. Any other model is asked in the same way, the demo model for instance.
docs/experiments.md shows a run. The last line is one JSON document.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from router_looks import show
from router_worlds import left_out
from world import relations_of

from memoir_edge.cli.sessions import OnnxModel
from memoir_edge.demo.edits import sample
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Editor, Wishes, choose, load, quiet
from memoir_edge.edits import Edit
from memoir_edge.evaluate.metrics import Report, evaluate
from memoir_edge.relations import Relation
from memoir_edge.router import Encoder
from memoir_edge_exporter import export
from memoir_edge_runtime import Session, recorded, replay

Row = dict[str, Any]
ROOM = 16


def main() -> None:
    """Make the edits each way, ask on both sides, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keys", type=int, default=0)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    base = load(str(given.model), device="cpu")
    edits = [
        replace(edit, keys=edit.rephrase[: given.keys], rephrase=edit.rephrase[given.keys :])
        for edit in sample(given.edits, given.seed)
    ]
    rows = [row for way in given.ways for row in asked(base, edits, given.model, way)]
    show(f"{len(edits)} edits of {given.model.name}", rows)
    print(json.dumps({"experiment": "t5", "edits": len(edits), "keys": given.keys,
                      "rows": rows}))  # fmt: skip


def asked(base: BaseModel, edits: Sequence[Edit], model: Path, way: str) -> list[Row]:
    """Make the edits, and ask all that their records hold on both sides."""
    wishes, relations = WAYS[way]
    encoder = Encoder(str(model_path("minilm"))) if relations else None
    editor = Editor(
        base, choose(base, wishes, coded=encoder is not None), router=encoder,
        relations=relations() if relations else (),
    )  # fmt: skip
    start = time.process_time()
    editor.apply(edits)
    seconds = (time.process_time() - start) / len(edits)
    memory = editor.memory()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "onnx"
        export(model=model, out=out, site=memory.site, encoder=encoder, precision="fp32")
        session = Session(out, threads=1)
        start = time.perf_counter()
        generation = session.swap(memory)
        swapped = time.perf_counter() - start
        held = [one.held for part in replay(session, generation, recorded(memory)) for one in part]
        onnx = OnnxModel(session)
        texts = [text for e in edits for text in (e.prompt, *e.rephrase, *e.hard_negatives)]
        texts += [probe.prompt for e in edits for probe in e.locality]
        both = [each.answer(texts, ROOM, memory=True) for each in (editor.model, onnx)]
        same = [a[:2] == b[:2] for a, b in zip(*both, strict=True)]
        more = {"same": sum(same) / len(same), "held": sum(held) / len(held),
                "swap ms": 1000 * swapped}  # fmt: skip
        return [
            {"way": way, "on": "torch", **shares(evaluate(editor.model, edits)), "CPU s": seconds},
            {"way": way, "on": "ONNX", **shares(evaluate(onnx, edits)), **more},
        ]


def shares(report: Report) -> Row:
    """What counts, by free generation, and the routing."""
    found = report.as_json()
    free, routing = found["free"], found["routing"]
    return {
        "reliability": free["reliability"],
        "generalization": free["generalization"],
        "locality": free["locality"],
        "reach": routing["recall"],
        "near": routing["false_fires"],
        "unrelated": routing["unrelated_fires"],
    }


Ways = dict[str, tuple[Wishes, Callable[[], Sequence[Relation]] | None]]
WAYS: Ways = {
    "activations": (Wishes(), None),
    "activations-5%": (Wishes(false_fires=0.05), None),
    "encoder": (Wishes(), lambda: relations_of("present")),
    "encoder-left-out": (Wishes(), left_out),
}


if __name__ == "__main__":
    main()
