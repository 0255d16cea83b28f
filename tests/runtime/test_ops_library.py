"""The op library itself: built and found, safe whatever it is given, told of by the session."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from memoir_edge_runtime import Options, Session, _ops

ROOT = Path(__file__).parents[2]
CMAKE = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
SANITIZED = ["-DMEMOIR_EDGE_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug"]
compiled = pytest.mark.skipif(not (CMAKE and COMPILER), reason="needs CMake and a C++ compiler")


@pytest.fixture(scope="module")
def fuzzer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ops")
    options = ["-DMEMOIR_EDGE_FUZZ=ON", *request.param]
    for step in (["-S", str(ROOT / "runtime" / "ops"), "-B", str(folder), *options],
                 ["--build", str(folder), "--target", "fuzz_ops", "--parallel", "2"]):  # fmt: skip
        done = subprocess.run([str(CMAKE), *step], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr, done.stderr
    return folder / "fuzz_ops"


def _fuzz(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answered, refused, wrongly = map(int, re.findall(r"\d+", done.stdout))
    assert answered > 0
    assert refused > 0
    assert wrongly == 0


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("fuzzer", [SANITIZED], indirect=True)
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_read_or_written_beyond_a_tensor(fuzzer: Path, seed: int) -> None:
    _fuzz([str(fuzzer), "4000", str(seed)])


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("fuzzer", [SANITIZED], indirect=True)
def test_memory_may_run_out_at_any_allocation(fuzzer: Path) -> None:
    """Also inside parallel work: the process lives, the call is refused, the next one answered."""
    _fuzz([str(fuzzer), "500", "3", "memory"])


@compiled
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
@pytest.mark.parametrize("fuzzer", [[]], indirect=True)
def test_valgrind_finds_nothing(fuzzer: Path) -> None:
    options = ["-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"]
    options += ["--soname-synonyms=somalloc=nouserintercepts"]  # the program has its own new
    _fuzz(["valgrind", *options, str(fuzzer), "400", "2"])


@compiled
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_a_library_with_cuda_serves_where_there_is_none(
    export_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["-DMEMOIR_EDGE_CUDA=ON"]
    for step in (["-S", str(ROOT / "runtime" / "ops"), "-B", str(tmp_path), *options],
                 ["--build", str(tmp_path), "--parallel", "2"]):  # fmt: skip
        done = subprocess.run([str(CMAKE), *step], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr, done.stderr
    monkeypatch.setattr(_ops, "__file__", str(tmp_path / "_ops.py"))
    _ops.library.cache_clear()
    [built] = tmp_path.glob("libmemoir_edge_ops.*")
    assert _ops.library("cpu") == _ops.library("cuda") == built
    answers = Session(export_dir).generate("a", Options(max_new_tokens=4))
    monkeypatch.undo()
    _ops.library.cache_clear()
    assert answers == Session(export_dir).generate("a", Options(max_new_tokens=4))


def test_a_session_says_what_runs(export_dir: Path) -> None:
    assert Session(export_dir, native=False).ops == "function bodies"
    if _ops.library("cpu") is None:
        pytest.skip("the native ops were not built: python runtime/hatch_build.py")
    assert Session(export_dir).ops == f"native ({_ops.kernels()})"


def test_without_the_library_the_bodies_serve(
    export_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ops, "library", lambda device: None)
    session = Session(export_dir)
    assert session.ops == "function bodies"
    assert session.generate("a", Options(max_new_tokens=1))


def test_a_library_of_another_system_is_as_none(tmp_path: Path) -> None:
    path = tmp_path / "libmemoir_edge_ops.so"
    path.write_bytes(b"\x7fELF of some other machine")
    assert _ops._load(path) is None


@compiled
@pytest.mark.slow
def test_the_wheel_holds_the_library_for_every_python(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*build, str(ROOT / "runtime")], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(re.match(r"memoir_edge_runtime/libmemoir_edge_ops\.", name) for name in names)


@pytest.mark.parametrize("made", [[], ["Release/memoir_edge_ops.dll"], ["libmemoir_edge_ops.dll"]])
def test_a_build_that_makes_nothing_to_load_is_none_and_says_so(
    made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    hook = runpy.run_path(str(ROOT / "runtime" / "hatch_build.py"))

    def run(step: list[str], **given: object) -> subprocess.CompletedProcess[str]:
        for name in made:
            place = Path(step[step.index("-B") + 1] if "-B" in step else step[2]) / name
            place.parent.mkdir(exist_ok=True)
            place.touch()
        return subprocess.CompletedProcess(step, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "nvcc" else name)
    hook["build"].__globals__["PACKAGE"] = tmp_path
    assert hook["build"]() is False
    assert "made no libmemoir_edge_ops.so" in (said := capsys.readouterr().err)
    assert "without native ops" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_without_a_compiler_the_wheel_is_made_and_says_so(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runtime", tmp_path / "runtime",
                    ignore=shutil.ignore_patterns("libmemoir_edge_ops*"))  # fmt: skip
    (tmp_path / "runtime" / "ops" / "CMakeLists.txt").write_text("message(FATAL_ERROR none)")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path),
         str(tmp_path / "runtime")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "without native ops" in done.stderr + done.stdout
    assert [wheel.name for wheel in tmp_path.glob("*-none-any.whl")]


# --- tools/gpu_check.py --------------------------------------------------------------------------


def _gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_gpu_check_says_that_there_is_no_gpu() -> None:
    done = _gpu_check()
    assert done.returncode == 2
    assert "gpu_check: PyTorch sees no CUDA device\n" in done.stderr
    assert not done.stdout


@pytest.mark.slow
def test_the_gpu_check_can_be_rehearsed_on_a_cpu() -> None:
    if _ops.library("cpu") is None:
        pytest.skip("the native ops were not built: python runtime/hatch_build.py")
    done = _gpu_check("ops", "--device", "cpu", "--cases", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == []
    assert {row["ok"] for row in found["ops"]} == {True}
