"""The npm package in js/ beside its packages, for tests and tools; nothing runs by itself.

Packages come from npm once, as js/package-lock.json pins them, into the cache folder.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from memoir_edge import cache

JS = Path(__file__).parents[1] / "js"


class UnavailableError(Exception):
    """Why JavaScript cannot run here."""


def project(folder: Path) -> Path:
    """js/ as a new folder within `folder`, beside its packages: node looks for them there.

    Raises:
        UnavailableError: node, npm or the packages are not to be had.
    """
    out, found = folder / "js", packages()
    shutil.copytree(JS, out, ignore=shutil.ignore_patterns("node_modules"))
    (out / "node_modules").symlink_to(found)
    return out


def packages() -> Path:
    """The folder `node_modules` of js/package-lock.json.

    Raises:
        UnavailableError: node, npm or the packages are not to be had.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise UnavailableError(f"there is no {program}")
    lock = hashlib.sha256((JS / "package-lock.json").read_bytes()).hexdigest()
    return cache.made(cache.folder() / "npm" / lock[:16], _install) / "node_modules"


def _install(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(JS / name, folder / name)
    words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or ["it says nothing"]
        raise UnavailableError(f"npm cannot fetch the packages: {said[0]}")


def chromium() -> str:
    """Where a Chromium is.

    Raises:
        UnavailableError: Nowhere.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (found := shutil.which(name)) is not None:
            return found
    raise UnavailableError("there is no chromium")
