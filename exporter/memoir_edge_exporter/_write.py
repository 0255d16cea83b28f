"""Write an export directory: all of it or nothing.

Rules:
1. Everything is made in a hidden folder beside the target, which is renamed at the end.
2. A folder in the way is replaced only if it is empty or an earlier export. What a user has put
   beside an export, memories and their journals above all, stays.
3. Weights that already lie beside the graph stay there and are never loaded. The others are written
   to `model.onnx.data` if together they exceed a limit. The ports' own initializers stay in the
   graph, because ONNX Runtime cannot replace external ones.
4. ONNX Runtime loads the graph on disk. (The ONNX checker does not know the operators of its own
   that other exporters write.)
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
from onnx import external_data_helper

from memoir_edge import ports, sidecar
from memoir_edge.base import BESIDE, COMPANIONS, ENCODER, GENAI, TOKENIZERS
from memoir_edge.errors import GraphError, InputError, first_line, install

GRAPH = "model.onnx"
MAX_INSIDE = 1 << 28  # bytes of weights; more would be held twice by whoever loads the graph
SMALL = 1024  # bytes of a tensor that is not worth a place outside
ROUTER = "router"
# What else of an earlier export goes with it.
_PARTS = frozenset({
    sidecar.NAME, "README.md", ROUTER, "onnx", "preprocessor_config.json", *BESIDE,
    GRAPH, f"{GRAPH}.data", f"{GRAPH}_data", ENCODER, f"{ENCODER}.data",
    "libmemoir_edge_ops.so", "libmemoir_edge_ops.dylib",
})  # fmt: skip
ADAPTER = ".onnx_adapter"


# --- Rules 1 and 2 -------------------------------------------------------------------------------


@contextmanager
def directory(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` if nothing goes wrong.

    Raises:
        InputError: Something else is in the way, it is the current folder, or the disk refuses.
    """
    out = out.expanduser().resolve()
    if out.exists() and not _replaceable(out):
        raise InputError(
            f"{out} is in the way: it is no earlier export", hint="give another --out, or move it"
        )
    if out.exists() and Path.cwd().is_relative_to(out):  # who stands there would be left nowhere
        raise InputError(
            f"{out} is the folder that this runs in, which cannot be replaced from within",
            hint="run it from another folder",
        )
    missing = [each for each in out.parents if not each.exists()]
    made = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        yield made
        made.chmod(0o755)
        if out.exists():
            _keep(out, made)
        _exchange(made, out)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {error.strerror or error}",
            hint="check the place and its free space",
        ) from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        with suppress(OSError):  # of a folder that holds what was made
            for each in missing:
                each.rmdir()


def _replaceable(out: Path) -> bool:
    return out.is_dir() and ((out / sidecar.NAME).exists() or not any(out.iterdir()))


def _keep(earlier: Path, made: Path) -> None:
    """Copy what lies in an earlier export and is no part of one, unless it is made anew."""
    parts = set(_PARTS)
    with suppress(InputError):  # without a graph there are no weights of its own
        parts |= {PurePosixPath(name).parts[0] for name in weight_files(load(earlier))}
    if _has_adapters(earlier):
        parts |= {each.name for each in earlier.glob(f"*{ADAPTER}")}
    for each in earlier.iterdir():
        if each.name in parts or (made / each.name).exists():
            continue
        if each.is_dir():
            shutil.copytree(each, made / each.name, symlinks=True)
        else:
            shutil.copy2(each, made / each.name, follow_symlinks=False)


def _has_adapters(folder: Path) -> bool:
    """Whether a folder is a package for onnxruntime-genai: elsewhere adapters are a user's own."""
    with suppress(GraphError):
        return sidecar.read(folder).kind == "recurrent" and (folder / GENAI).is_file()
    return False


def _exchange(made: Path, out: Path) -> None:
    """`made` becomes `out`; if that fails, the earlier `out` is back."""
    old = made.with_name(f"{made.name}.old")
    earlier = out.exists()
    if earlier:
        out.rename(old)
    try:
        made.rename(out)
    except BaseException:
        if earlier:
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def require_apart(out: Path, *sources: Path) -> None:
    """Check that a folder to be made is none that is read, and none around it.

    Raises:
        InputError: It is.
    """
    place = out.expanduser().resolve()
    for source in sources:
        if source.resolve().is_relative_to(place):
            raise InputError(
                f"cannot write {out}: {source} would be lost with what is there",
                hint="give another --out",
            )


def require_names(names: Sequence[str]) -> None:
    """Check that memories that go along have names of their own.

    Raises:
        InputError: Two have one.
    """
    if len(set(names)) < len(names):
        raise InputError("two memories have one name", hint="rename one of the files")


# --- Rules 3 and 4 -------------------------------------------------------------------------------


def load(folder: Path) -> onnx.ModelProto:
    """The graph of a folder, without the weights that lie beside it.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    path = folder / GRAPH
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError is no stable name
        raise InputError(f"{path} is no ONNX model: {first_line(error)}") from error


def save(
    model: onnx.ModelProto,
    folder: Path,
    max_inside: int = MAX_INSIDE,
    *,
    name: str = GRAPH,
    data: str = f"{GRAPH}.data",
) -> None:
    """Write the graph, and check what was written.

    Raises:
        GraphError: ONNX Runtime does not load it.
        InputError: There is no ONNX Runtime.
    """
    inside = [weight for weight in _weights(model) if weight.HasField("raw_data")]
    if sum(len(weight.raw_data) for weight in inside) > max_inside:
        for weight in inside:
            if len(weight.raw_data) >= SMALL:
                external_data_helper.set_external_data(weight, location=data)
    path = folder / name
    onnx.save(model, path)
    check(path)


def check(path: Path) -> None:
    """Check that ONNX Runtime loads a graph.

    Raises:
        GraphError: It does not.
        InputError: There is no ONNX Runtime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("checking a graph needs onnxruntime", hint=install("export")) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is told by the exception
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # it copies the weights
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise GraphError(
            f"the graph with ports is no valid ONNX: {first_line(error)}",
            hint="check that ONNX Runtime loads the graph without ports",
        ) from error


def gather(model: onnx.ModelProto, folder: Path) -> None:
    """Move the weights that lie beside a graph into it."""
    files = weight_files(model)
    external_data_helper.load_external_data_for_model(model, str(folder))
    for name in files:
        (folder / name).unlink()


def copy_weights(model: onnx.ModelProto, source: Path, folder: Path) -> None:
    """Copy the files that hold weights beside the graph of another folder.

    Raises:
        InputError: One is missing, or lies outside that folder.
    """
    for name in weight_files(model):
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            raise InputError(
                f"{source / GRAPH} has weights outside its folder: {name}",
                hint="save the graph with its weights beside it",
            )
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source / place, folder / place)
        except OSError as error:
            raise InputError(f"cannot copy {source / place}: {error.strerror}") from error


def weight_files(model: onnx.ModelProto) -> list[str]:
    """The files beside a graph in which it has weights."""
    return sorted({_location(weight) for weight in _weights(model)} - {""})


def rename_weights(model: onnx.ModelProto, name: str) -> None:
    """Let a graph look for the weights beside it in a file of this name."""
    for weight in _weights(model):
        for entry in weight.external_data if _location(weight) else ():
            if entry.key == "location":
                entry.value = name


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    own = ports.MEMORY | ports.RUN
    return [weight for weight in model.graph.initializer if weight.name not in own]


def _location(weight: onnx.TensorProto) -> str:
    """File of a weight that lies beside the graph; empty for one inside."""
    if not external_data_helper.uses_external_data(weight):
        return ""
    return next((entry.value for entry in weight.external_data if entry.key == "location"), "")


def of_a_decoder_alone(folder: Path) -> sidecar.Sidecar:
    """What was exported to a folder, for hosts that run one graph.

    Raises:
        GraphError: It is no export directory, or the export of an encoder-decoder.
    """
    made = sidecar.read(folder)
    if (folder / ENCODER).exists():
        raise GraphError(
            f"{folder} holds an encoder-decoder, which other hosts than memoir_edge_runtime do not "
            "run with a memory",
            hint="serve it: memoir-edge serve DIR",
        )
    return made


# --- What stands beside the graph ----------------------------------------------------------------


def companions(source: Path, folder: Path) -> None:
    """Copy the files of a model that are read beside its graph."""
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a file such as `config.json`."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def copy_router(source: Path, folder: Path) -> None:
    """Copy the router of an export directory.

    Raises:
        InputError: A part of it is missing.
    """
    for name in ("router.onnx", "route.onnx", "tokenizer.json"):
        if not (part := source / ROUTER / name).is_file():
            raise InputError(f"there is no {part}", hint="export the model again, with --encoder")
    shutil.copytree(source / ROUTER, folder / ROUTER)


def require_tokenizer(*sources: Path, names: tuple[str, ...] = TOKENIZERS) -> None:
    """Check that one of the folders holds a tokenizer.

    Raises:
        InputError: None does.
    """
    if not any((source / name).is_file() for source in sources for name in names):
        raise InputError(
            f"no {names[0]} in {' or '.join(map(str, sources))}",
            hint="save it there: AutoTokenizer.from_pretrained(...).save_pretrained(DIR)",
        )
