"""Write an export directory: all of it or nothing.

Rules:
1. Everything is made in a hidden folder beside the target, which is renamed at the end.
2. A folder in the way is replaced only if it is empty or an earlier export.
3. Weights above the limit of one protobuf go to `model.onnx.data`.
4. The graph on disk passes the ONNX checker.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from memoir_edge import sidecar
from memoir_edge.errors import InputError

GRAPH = "model.onnx"
MAX_PROTOBUF = (1 << 31) - (1 << 20)  # 2 GiB, less room for the graph itself
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@contextmanager
def directory(out: Path) -> Iterator[Path]:
    """Rules 1 and 2: a folder to fill, which becomes `out` if nothing goes wrong.

    Raises:
        InputError: Something else is in the way.
    """
    if out.exists() and not _replaceable(out):
        raise InputError(
            f"{out} is in the way: it is no earlier export", hint="give another --out, or move it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield made
        made.chmod(0o755)
        if out.exists():
            old = made.with_suffix(".old")
            out.rename(old)
            made.rename(out)
            shutil.rmtree(old)
        else:
            made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _replaceable(out: Path) -> bool:
    return out.is_dir() and ((out / sidecar.NAME).exists() or not any(out.iterdir()))


def save(model: onnx.ModelProto, folder: Path, max_protobuf: int = MAX_PROTOBUF) -> None:
    """Rules 3 and 4."""
    path = folder / GRAPH
    if model.ByteSize() > max_protobuf:
        onnx.save(model, path, save_as_external_data=True, location=f"{GRAPH}.data", size_threshold=1024)
    else:
        onnx.save(model, path)
    onnx.checker.check_model(str(path))


def companions(source: Path, folder: Path) -> None:
    """Copy the files that the runtime reads beside the graph, where they are not there yet.

    Raises:
        InputError: There is no tokenizer.
    """
    for name in COMPANIONS:
        if (source / name).is_file() and not (folder / name).exists():
            shutil.copyfile(source / name, folder / name)
    if not (folder / "tokenizer.json").exists():
        raise InputError(
            f"{source} holds no tokenizer.json", hint="save it there with tokenizer.save_pretrained"
        )
