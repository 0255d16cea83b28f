"""`memoir_edge.json`, the file that stands beside an exported graph and says what its ports fit."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memoir_edge.errors import GraphError

NAME = "memoir_edge.json"
FORMAT = 1
PORTS = 1


@dataclass(frozen=True)
class Sidecar:
    """What an exported graph is.

    `feature` is the routing feature that the graph forms by itself when `memory.span` is not fed.
    """

    site: str
    D: int
    d: int
    feature: str
    dtype: str
    model_id: str
    digest: str | None  # of the base model's weight files
    exporter: str
    ports: int = PORTS
    format: int = FORMAT


def write(folder: Path, sidecar: Sidecar) -> None:
    """Write the file into an export directory."""
    (folder / NAME).write_text(json.dumps(asdict(sidecar), indent=2, sort_keys=True) + "\n", "utf-8")


def read(folder: Path) -> Sidecar:
    """Read and check the file of an export directory.

    Raises:
        GraphError: It is missing, malformed, or of a version that this tool does not know.
    """
    again = f"make one: memoir-edge export --model MODEL --out {folder}"
    path = folder / NAME
    if not path.is_file():
        raise GraphError(f"{folder} is no export directory: it holds no {NAME}", hint=again)
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        found = Sidecar(**raw)
    except (OSError, ValueError, TypeError) as error:
        raise GraphError(f"{path} cannot be used: {error}", hint=again) from error
    if (found.format, found.ports) != (FORMAT, PORTS):
        raise GraphError(
            f"{path} is of format {found.format} with ports {found.ports}, expected {FORMAT}, {PORTS}",
            hint="update memoir-edge, or export again",
        )
    texts, sizes = (found.site, found.feature, found.dtype, found.model_id), (found.D, found.d)
    if not all(isinstance(v, str) for v in texts) or not all(type(v) is int and v > 0 for v in sizes):
        raise GraphError(f"{path} has a field of the wrong type", hint=again)
    return found
