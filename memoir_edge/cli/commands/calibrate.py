"""`memoir-edge calibrate`: choose how to route, or give a memory its thresholds, or other keys."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from memoir_edge import keys
from memoir_edge import memory as memory_file
from memoir_edge.cli.extras import Routed, Torch, needs
from memoir_edge.cli.journals import opened
from memoir_edge.cli.modes import refuse
from memoir_edge.cli.output import Output
from memoir_edge.cli.places import check_file
from memoir_edge.edits import Edit, read, read_text
from memoir_edge.errors import InputError
from memoir_edge.nearmiss import Miss
from memoir_edge.router.asks import Asked, asks
from memoir_edge.router.measure import Row, further, measure
from memoir_edge.settings import Wishes
from memoir_edge.tophash import Bytes

if TYPE_CHECKING:
    from memoir_edge.editor import BaseModel, Trial

SHOWN = 12
NEAR = 6  # near misses an edit that activations are asked too; the encoder has many more


def command(
    source: Path | None = None,
    /,
    *,
    torch: Torch | None = None,
    out: Path | None = None,
    memory: Path | None = None,
    site: str | None = None,
    layers: str | None = None,
    false_fires: float = 0.01,
    unrelated: Path | None = None,
    routed: Routed = Routed(),  # noqa: B008 - frozen
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Measure which layer, feature and k tell edits from near misses, or set a memory's thresholds.

    Given edits, every layer from half of the depth upwards is tried with every feature: how many
    ways to ask for an edit still reach it when at most that share of near misses reaches any? With
    --out, the best is written as an empty memory: `memoir-edge apply EDITS --memory` begins from
    it. With --encoder, the encoder is measured beside them; all are then asked the other phrasings
    of each edit's relation too, and the near misses that the relations give. Near misses are made
    from the edits, where records name their subject; what a record keeps for evaluation is not
    looked at.

    Given --memory, the keys of that memory get new thresholds; it is written again, with a step in
    its journal. Nothing else about it can change without training it again.

    Given an export directory and --memory, keys and thresholds are taken from the graph that is
    deployed, without PyTorch: in few bits a prompt has another mask than in the model. They are
    written to --out, beside which no journal stands; go on editing the memory that it was made of.

    Args:
        source: JSON lines: {"prompt": ..., "target": ..., "subject": ...}; or an export directory.
        out: Where to write the chosen routing, as an empty memory; or the memory for the graph.
        memory: A memory with its journal, to be given new thresholds; or one for the graph.
        site: Module path of the layer to edit; default by architecture.
        layers: The only layers to try, such as 20,24,27.
        false_fires: Share of near misses that may reach an edit.
        unrelated: A text file of prompts, one a line, to centre on instead of the built-in ones.
    """
    if not 0 < false_fires < 1:
        raise InputError(f"false fires are {false_fires}, expected above 0 and below 1")
    if out is not None:
        if out.exists():
            raise InputError(f"{out} exists", hint="give another --out")
        check_file(out, memory, source)
    if source is not None and source.is_dir():
        refuse("an export directory", torch, routed, site=site, layers=layers, unrelated=unrelated)
        return _deployed(source, memory, out, false_fires, output)
    if (source is None) == (memory is None):
        raise InputError("what to calibrate?", hint="give a file of edits, or --memory FILE")
    if torch is None:
        raise InputError("calibrate runs the model in PyTorch", hint="give it: --model DIR")
    if memory is not None:
        refuse(
            "a memory with its journal, which is written again",
            out=out, site=site, layers=layers, unrelated=unrelated,
        )  # fmt: skip
        return _thresholds(memory, torch, routed, false_fires, output)
    assert source is not None
    numbers = _numbers(layers) if layers is not None else None
    prompts = _lines(unrelated) if unrelated else None
    return _routing(source, torch, out, site, numbers, false_fires, prompts, routed, output)


def _routing(
    source: Path,
    torch: Torch,
    out: Path | None,
    site: str | None,
    layers: Sequence[int] | None,
    bound: float,
    unrelated: Sequence[str] | None,
    routed: Routed,
    output: Output,
) -> int:
    """Measure every way to route edits; the best is written where that is wanted."""
    wanted, _ = read(source)
    base = torch.load()
    router = routed.load()
    if router is not None and out is not None:
        raise InputError(
            "--out keeps a layer and a feature, and an encoder needs neither",
            hint="leave --out or --encoder out",
        )
    rows: list[Row] = []
    near: list[Miss] = []
    if router is not None:
        asked = asks(wanted, routed.known(), router)
        rows = measure(asked, router, bound)
        wanted, near = _likewise(wanted, asked)
    found = _trials(base, wanted, site, layers, bound, unrelated, near, output)
    _side_by_side(rows, found, output)
    best = found[0]
    if rows and rows[-1].own > best.recall:
        output.say(f"apply with: --encoder {routed.encoder}")
    else:
        output.say(f"apply with: --site {best.site} --feature {best.feature} --k {best.k}")
    if out is not None:
        _begin(base, best, unrelated, out, output)
    trials = [trial._asdict() for trial in found]
    document: dict[str, Any] = {"edits": len(wanted), "false_fires": bound, "trials": trials}
    document["encoder"] = [row._asdict() for row in rows]
    output.result(document | {"best": best._asdict(), "memory": str(out) if out else None})
    return 0


def _begin(
    base: "BaseModel", best: "Trial", unrelated: Sequence[str] | None, out: Path, output: Output
) -> None:
    """Write an empty memory that routes in the best way."""
    from memoir_edge.editor import choose, nothing

    wishes = Wishes(site=best.site, k=best.k, feature=best.feature)
    memory_file.write(nothing(base, choose(base, wishes), unrelated), out)
    output.say(f"{out}: no edits yet; memoir-edge apply EDITS --memory {out} --out FILE")


def _trials(
    base: "BaseModel",
    edits: Sequence[Edit],
    site: str | None,
    layers: Sequence[int] | None,
    bound: float,
    unrelated: Sequence[str] | None,
    near: Sequence[Miss],
    output: Output,
) -> "list[Trial]":
    """Every layer with every feature and k, the best first, with a bar and a table."""
    from memoir_edge.editor import choose_site, sites_near, trials

    sites = sites_near(base, site or choose_site(base.net, base.config), layers)
    with output.progress("layers", len(sites)) as bar:
        found = trials(
            base, edits, sites, bound=bound, unrelated=unrelated, near=near,
            on_site=lambda _: bar.advance(),
        )  # fmt: skip
    output.table(
        f"{len(edits)} edits, at most {bound:.1%} of near misses fire; the best of {len(found)}",
        ["site", "feature", "k", "reach their edit", "nearest", "at 5 %", "at 1 %", "threshold"],
        [
            [t.site, t.feature, t.k, t.recall, t.nearest, t.at_5, t.at_1, t.threshold]
            for t in found[:SHOWN]
        ],
    )
    return found


def _likewise(edits: Sequence[Edit], asked: Sequence[Asked]) -> tuple[list[Edit], list[Miss]]:
    """Edits and near misses by which the model's activations are asked what the encoder was."""
    given = [replace(edit, keys=further(one)[1]) for edit, one in zip(edits, asked, strict=True)]
    near = {m.text: None for one in asked for m in one.misses[:NEAR]}
    return given, [Miss(text) for text in near]


def _side_by_side(rows: Sequence[Row], trials: "Sequence[Trial]", output: Output) -> None:
    """The encoder's rows beside the best trial of each feature."""
    best = {trial.feature: trial for trial in reversed(trials)}
    activations = [
        [f"activations, {t.feature}, {t.site}", t.nearest, t.at_5, t.at_1, t.recall]
        for t in sorted(best.values(), key=lambda t: t.at_1)
    ]
    encoder = [[f"encoder, {r.routing}", r.nearest, r.at_5, r.at_1, r.own] for r in rows]
    if encoder:
        output.table(
            "reach their edit: while 5 % or 1 % of the near misses reach any, by own thresholds",
            ["routing", "nearest", "at 5 %", "at 1 %", "own"],
            [*activations, *encoder],
        )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"layers are {text!r}, expected numbers such as 20,24,27") from error


def _lines(path: Path) -> list[str]:
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{path} holds no prompt", hint="one a line; about a hundred")
    return lines


def _thresholds(file: Path, torch: Torch, routed: Routed, bound: float, output: Output) -> int:
    with opened(file, output) as journal:
        router = routed.load(journal)
        base = torch.load()
        from memoir_edge.editor import Editor, choose

        settings = choose(base, Wishes(false_fires=bound), journal.origin)
        editor = Editor(
            base, settings, journal=journal,
            router=router, relations=routed.known() if router else (),
        )  # fmt: skip
        found = editor.calibrate()
        if found is None:
            raise InputError(
                f"too few near misses can be made from the {len(editor.edits)} edits of {file}",
                hint="more edits, records that name their subject, or a larger --false-fires",
            )
        made = journal.write(file)
    low, middle, high = (round(float(q), 3) for q in np.quantile(found, [0, 0.5, 1]))
    output.say(f"{file}: thresholds from {low} to {high}, median {middle}; sha256 {made.digest}")
    output.result(
        {"memory": str(file), "digest": made.digest, "false_fires": bound,
         "thresholds": {"lowest": low, "median": middle, "highest": high}}
    )  # fmt: skip
    return 0


def _deployed(
    directory: Path, memory: Path | None, out: Path | None, bound: float, output: Output
) -> int:
    if memory is None or out is None:
        raise InputError(
            "an export directory is calibrated for a memory, which becomes another",
            hint="give --memory FILE --out NEW",
        )
    held = memory_file.read(memory)
    if held.codes is not None:
        raise InputError(
            f"{memory} is routed by an encoder, whose codes are those of any graph",
            hint=f"ask whether it holds: memoir-edge verify {directory} --memory {memory}",
        )
    with needs("the runtime", "run"):
        from memoir_edge_runtime import Masks
    graph, masks = Masks(directory, held), dict[str, Bytes]()
    asked = keys.texts(keys.known(held))
    with output.progress("prompts", len(asked)) as bar:
        for text in asked:
            masks[text] = graph.of(text)
            bar.advance()
    found = keys.rekeyed(held, masks, bound)
    made = memory_file.write(found.memory, out)
    _show_moved(found, out, output)
    output.result(
        {"memory": str(out), "digest": made.digest, "parent": held.digest, "false_fires": bound,
         "calibrated": found.calibrated, "withheld": found.withheld,
         "moved": [each._asdict() for each in found.moved]}
    )  # fmt: skip
    return 0


def _show_moved(found: keys.Rekeyed, out: Path, output: Output) -> None:
    def answer(fired: bool) -> str:
        return "edit" if fired else "base"

    output.table(
        "the edits' own prompts on this graph",
        ["id", "prompt", "overlap", "answers", "overlap now", "answers now"],
        [
            [m.edit, m.prompt, m.overlap, answer(m.fired), m.overlap_now, answer(m.fires)]
            for m in found.moved
        ],
    )
    if not found.calibrated:
        output.say("too few near misses to set thresholds by: each edit keeps its own")
    if found.withheld:
        output.say(f"{len(found.withheld)} edits without a record keep their keys")
    before, now = (
        sum(fires) for fires in zip(*((m.fired, m.fires) for m in found.moved), strict=True)
    )
    output.say(
        f"{out}: {before} of {len(found.moved)} edits were reached by their own prompts, now {now}"
    )
