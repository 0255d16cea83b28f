"""Every module has a test file of its name, and tools import what there is."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = {
    "memoir_edge": "tests",
    "exporter/memoir_edge_exporter": "tests/exporter",
    "runtime/memoir_edge_runtime": "tests/runtime",
}
# Modules whose behaviour is one with another's, or shows in a process or graph of its own only.
ELSEWHERE = {
    "exporter/memoir_edge_exporter/_bodies.py": "tests/exporter/test_ops.py",  # beside the kernels
    "exporter/memoir_edge_exporter/_code.py": "tests/exporter/test_router.py",
    "exporter/memoir_edge_exporter/_eight_bits.py": "tests/exporter/test_router.py",
    "exporter/memoir_edge_exporter/_genai.py": "tests/cli/test_genai.py",
    "exporter/memoir_edge_exporter/_triton.py": "tests/cli/test_package.py",
    "memoir_edge/editor/descent.py": "tests/editor/test_train.py",
    "memoir_edge/evaluate/dataset.py": "tests/cli/test_eval_dataset.py",
    "memoir_edge/memory/memory.py": "tests/memory/test_file.py",
    "memoir_edge/router/adapter.py": "tests/router/test_encoder.py",  # an encoder's own change
    "memoir_edge/router/reading.py": "tests/router/test_asks.py",
    "runtime/memoir_edge_runtime/_cache.py": "tests/runtime/test_decoder.py",
    "runtime/memoir_edge_runtime/_ops.py": "tests/runtime/test_ops_library.py",
    "runtime/memoir_edge_runtime/_results.py": "tests/runtime/test_session.py",
    "runtime/memoir_edge_runtime/_room.py": "tests/runtime/test_fused.py",
    "runtime/memoir_edge_runtime/serve/app.py": "tests/runtime/serve/test_openapi.py",
    "runtime/memoir_edge_runtime/serve/asking.py": "tests/runtime/serve/test_clients.py",
    "runtime/memoir_edge_runtime/serve/exchange.py": "tests/runtime/serve/test_access.py",
    "runtime/memoir_edge_runtime/serve/routes.py": "tests/runtime/serve/test_openapi.py",
}
# Commands are tested by what they do together: tests/cli.
COMMANDS = "memoir_edge/cli"


def own(package: str, path: Path) -> Path:
    """The test file of a module's name."""
    inside = path.relative_to(ROOT / package)
    return ROOT / TESTS[package] / inside.parent / f"test_{path.stem.strip('_')}.py"


def modules() -> list[tuple[str, Path]]:
    """Those that hold a function, by package."""
    return [
        (package, path)
        for package in TESTS
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.name.startswith("__")
        and not path.is_relative_to(ROOT / COMMANDS)
        and any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
    ]


@pytest.mark.parametrize(("package", "path"), modules(), ids=lambda given: Path(given).name)
def test_a_module_has_its_test_file(package: str, path: Path) -> None:
    elsewhere = ELSEWHERE.get(str(path.relative_to(ROOT)))
    assert own(package, path).is_file() == (elsewhere is None), own(package, path)
    assert elsewhere is None or (ROOT / elsewhere).is_file()


def test_exceptions_are_of_modules_that_are_there() -> None:
    assert set(ELSEWHERE) <= {str(path.relative_to(ROOT)) for _, path in modules()}


def imported(path: Path) -> list[tuple[str, str]]:
    """What a file takes from this project's packages: module and name."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.startswith("memoir_edge")
        for alias in node.names
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "tools").rglob("*.py")), ids=lambda path: path.name)
def test_a_tool_imports_what_there_is(path: Path) -> None:
    """Many tools run by hand only; a name that moved would be missed."""
    for module, name in imported(path):
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.import_module(f"{module}.{name}"), (module, name)


TOOLS = {path.stem: path for path in (ROOT / "tools").rglob("*.py")}


def defined(path: Path) -> set[str]:
    """Names at the top of a module, imported ones aside: each is taken from where it lives."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found


@pytest.mark.parametrize("path", sorted(TOOLS.values()), ids=lambda path: path.name)
def test_a_tool_takes_from_another_what_it_defines(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in TOOLS:
            missing = {alias.name for alias in node.names} - defined(TOOLS[node.module])
            assert not missing, (node.module, missing)
