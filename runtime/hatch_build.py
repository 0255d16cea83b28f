"""Builds the native ops into the package: for a wheel, and by hand in a checkout.

    python runtime/hatch_build.py        builds runtime/memoir_edge_runtime/libmemoir_edge_ops.*

Without CMake or a C++ compiler the package is built without them, and says so: the function bodies
in the exported graphs serve then. Where nvcc is there, the library has kernels for CUDA too.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent
PACKAGE = HERE / "memoir_edge_runtime"
ENDINGS = (".so", ".dylib")  # of libraries that the package looks for


class Ops(BuildHookInterface):  # type: ignore[type-arg]
    """The hook that hatchling calls."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the wheel one for this platform, and for every Python."""
        if self.target_name == "wheel" and version != "editable" and build():
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"].append("memoir_edge_runtime/libmemoir_edge_ops*")


def build() -> bool:
    """Whether the library was built; prints why not."""
    cmake = Path(sys.executable).with_name("cmake")
    command = str(cmake) if cmake.is_file() else shutil.which("cmake")
    if command is None:
        return _without("CMake is not there")
    if shutil.which("nvcc"):
        if _built(command, "-DMEMOIR_EDGE_CUDA=ON"):
            return True
        print("nvcc cannot compile the CUDA kernels (see above); without them.", file=sys.stderr)
    return _built(command) or _without("they cannot be compiled here (see above)")


def _built(command: str, *options: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        for step in (
            [command, "-S", str(HERE / "ops"), "-B", folder, *options],
            [command, "--build", folder, "--config", "Release", "--parallel"],
        ):
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                print(done.stdout, done.stderr, file=sys.stderr)
                return False
        made = [path for path in Path(folder).glob("libmemoir_edge_ops*") if path.suffix in ENDINGS]
        for path in made:
            partial = PACKAGE / f".{path.name}"
            shutil.copyfile(path, partial)
            partial.replace(PACKAGE / path.name)  # a running process keeps the one that it has
    if not made:
        print(f"CMake made no libmemoir_edge_ops{' or '.join(ENDINGS)}.", file=sys.stderr)
    return bool(made)


def _without(reason: str) -> bool:
    print(f"memoir-edge-runtime without native ops: {reason}.", file=sys.stderr)
    print("The function bodies in exported graphs serve instead, slower.", file=sys.stderr)
    return False


if __name__ == "__main__":
    build()
