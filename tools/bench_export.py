"""What an export takes in memory.

    python tools/bench_export.py [--model MODEL] [--dtype fp32 fp16 ...]

Runs `memoir-edge export` in a process of its own for each dtype, and compares the most that it has
resident with the model's bytes in float32. The model is by default the one of `make models`. The
last line is one JSON document.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from memoir_edge.demo import models

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--dtype", nargs="+", default=["fp32"])
    given = parser.parse_args()
    model = located(given.model or str(models.path("smollm2")))
    size = fp32_bytes(model)
    found = {dtype: export(model, dtype) for dtype in given.dtype}
    table = Table("dtype", "resident", "to the model in fp32", "time", title=f"{size:,} bytes")
    for dtype, (resident, seconds) in found.items():
        table.add_row(
            dtype, f"{resident / 1e6:.0f} MB", f"{resident / size:.2f}", f"{seconds:.0f} s"
        )
    Console().print(table)
    print(json.dumps({"fp32_bytes": size, "resident_bytes": {d: r for d, (r, _) in found.items()}}))


def located(model: str) -> Path:
    """Its folder, made by another process: a parent's peak counts as its children's, too."""
    code = "import sys; from memoir_edge.base import locate; print(locate(sys.argv[1]))"
    found = subprocess.run([sys.executable, "-c", code, model], check=True, stdout=subprocess.PIPE)
    return Path(found.stdout.decode().splitlines()[-1])


def fp32_bytes(model: Path) -> int:
    """Of all tensors that a folder's safetensors files hold."""
    total = 0
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "numpy") as file:
            total += sum(4 * math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def export(model: Path, dtype: str) -> tuple[int, float]:
    """The most bytes that an export has resident, and its seconds."""
    packages = os.pathsep.join(str(ROOT / part) for part in (".", "exporter", "runtime"))
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "memoir_edge", "export", "--model", str(model), "--dtype", dtype]
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *command, "--out", f"{folder}/onnx", "--quiet"],
            env=os.environ | {"PYTHONPATH": packages},
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the export failed with {process.returncode}")
    return used.ru_maxrss * 1024, time.monotonic() - start


if __name__ == "__main__":
    main()
