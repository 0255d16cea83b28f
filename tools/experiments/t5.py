"""Edits of an encoder-decoder, from PyTorch to ONNX Runtime, by either router.

    python tools/train_demo_model.py --architecture t5 --out DIR --work DIR/work
    python tools/experiments/t5.py --model DIR [--edits 50] [--seed 0]
                                   [--routers activations encoder]

Edits of facts that the model knows, by the defaults; with the encoder (MiniLM), relations of the
test are left out of keys and guards. Each memory is asked twice all that its edits' records hold:
in PyTorch, and by a session on the exported graphs, into which it is swapped. `same` is the share
of prompts that both answer with the same text by the same edit, `held` of edits that hold when they
are replayed on the graphs. docs/experiments.md shows a run. The last line is one JSON document.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_router import left_out, show

from memoir_edge.cli.sessions import OnnxModel
from memoir_edge.demo.edits import sample
from memoir_edge.demo.models import path as model_path
from memoir_edge.editor import BaseModel, Editor, choose, load, quiet
from memoir_edge.edits import Edit
from memoir_edge.evaluate.metrics import Report, evaluate
from memoir_edge.router import Encoder, Router
from memoir_edge_exporter import export
from memoir_edge_runtime import Session, recorded, replay

Row = dict[str, Any]
ROOM = 16


def main() -> None:
    """Make the edits by each router, ask on both sides, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--routers", nargs="*", default=list(ROUTERS), choices=ROUTERS)
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    base, edits = load(str(given.model), device="cpu"), sample(given.edits, given.seed)
    rows = [row for name in given.routers for row in asked(base, edits, given.model, name)]
    show(f"{len(edits)} edits of {given.model.name}", rows)
    print(json.dumps({"experiment": "t5", "edits": len(edits), "rows": rows}))


def asked(base: BaseModel, edits: Sequence[Edit], model: Path, name: str) -> list[Row]:
    """Make the edits, and ask all that their records hold on both sides."""
    encoder = ROUTERS[name]()
    router: Router | None = encoder
    editor = Editor(
        base, choose(base, coded=encoder is not None), router=router,
        relations=left_out() if encoder else (),
    )  # fmt: skip
    start = time.process_time()
    editor.apply(edits)
    seconds = (time.process_time() - start) / len(edits)
    memory = editor.memory()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "onnx"
        export(model=model, out=out, site=memory.site, encoder=encoder)
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
        shown = {"router": name, "k": editor.settings.k}
        return [
            {**shown, "on": "PyTorch", **shares(evaluate(editor.model, edits)),
             "CPU s an edit": seconds},
            {**shown, "on": "ONNX Runtime", **shares(evaluate(onnx, edits)), **more},
        ]  # fmt: skip


def shares(report: Report) -> Row:
    """What counts, by free generation, and the routing."""
    found = report.as_json()
    free, routing = found["free"], found["routing"]
    return {
        "reliability": free["reliability"],
        "generalization": free["generalization"],
        "locality": free["locality"],
        "hard changed": free["hard_negatives_changed"],
        "reach": routing["recall"],
        "hard": routing["false_fires"],
        "unrelated": routing["unrelated_fires"],
    }


ROUTERS = {"activations": lambda: None, "encoder": lambda: Encoder(str(model_path("minilm")))}


if __name__ == "__main__":
    main()
