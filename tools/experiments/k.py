"""How many columns an edit should write: k from D / 32 to D / 2, beside the default.

    python tools/experiments/k.py --keep DIR [--edits 100] [--facts demo|counterfact]
                                  [--shares .03125 .0625 ...] [--seed 0] [--plot FILE]

Each k is one run of tools/lifelong.py in a folder of its own below DIR, so an interrupted
experiment goes on where it was. A quarter of the edits is a block: what the oldest quarter holds
beside the newest is what later edits wore off. docs/experiments.md shows a run.
The last line is one JSON document.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

LIFELONG = Path(__file__).parents[1] / "lifelong.py"
SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2)
SHOWN = {
    "reliability": "reliability",
    "generalization": "generalization",
    "on own row": "on own row",
    "hard changed": "hard negatives changed",
}


def main() -> None:
    """One run each, then a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--facts", choices=("demo", "counterfact"), default="counterfact")
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="of D")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    default = lived(given, None)
    D = default["D"]
    others = {round(share * D) for share in given.shares} - {default["settings"]["k"]}
    runs = [default, *(lived(given, k) for k in sorted(others))]
    rows = [row(run) for run in sorted(runs, key=lambda run: run["settings"]["k"])]
    show(rows, default["settings"]["k"])
    if given.plot:
        plot(rows, given.plot)
    print(json.dumps({"experiment": "k", "edits": default["edits"], "D": D,
                      "default": default["settings"]["k"], "rows": rows}))  # fmt: skip


def lived(given: argparse.Namespace, k: int | None) -> dict[str, Any]:
    """What tools/lifelong.py printed for this k; None is the default."""
    folder = given.keep / ("default" if k is None else f"k-{k}")
    command = [
        sys.executable, str(LIFELONG), "--facts", given.facts, "--edits", str(given.edits),
        "--blocks", "4", "--seed", str(given.seed), "--keep", str(folder),
        *([] if k is None else ["--set", f"k={k}"]),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def row(run: dict[str, Any]) -> dict[str, float]:
    """The figures of one run that are compared."""
    return {
        "k": run["settings"]["k"],
        "k / D": run["settings"]["k"] / run["D"],
        **{name: run["total"][shown] for shown, name in SHOWN.items()},
        "oldest quarter": run["blocks"][0]["on own row"],
        "newest quarter": run["blocks"][-1]["on own row"],
        "unrelated changed": 1 - run["unrelated"]["locality"],
        "steps": run["steps_per_edit"],
    }


def show(rows: list[dict[str, float]], default: int) -> None:
    """One table; the default's line is bold."""
    table = Table(*rows[0], title="by the number of columns of an edit; quarters on their own row")
    for found in rows:
        cells = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in found.values()]
        table.add_row(*cells, style="bold" if found["k"] == default else None)
    Console(width=150).print(table)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Shares by k / D."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name in ("reliability", "on own row", "oldest quarter", "hard negatives changed"):
        axes.plot([r["k / D"] for r in rows], [r[name] for r in rows], "o-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("k / D")
    axes.set_ylabel("share, free generation")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
