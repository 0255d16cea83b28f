"""Static pages that ask the server's own routes from the browser: the console's, and its like.

Knows nothing of what they show. Nobody needs a key to read these files: they hold no data. What
they ask for needs one, as for any client.
"""

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

PATH = "/console"
# No markup or script that a text brings along can run, and nothing is asked of other hosts.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


def read(folder: Traversable) -> dict[str, bytes]:
    """The files of a folder that a browser is to have, by their names."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name[path.name.rfind(".") :] in _KINDS
    }


def pages(prefix: str, files: Mapping[str, bytes]) -> APIRouter:
    """Routes to files below a prefix, which itself leads to `index.html`."""
    routes = APIRouter(prefix=prefix, include_in_schema=False)

    @routes.get("")
    @routes.get("/{name}")
    async def page(name: str = "index.html") -> Response:
        """One of the files."""
        if name not in files:
            raise HTTPException(404, f"there is no such file below {prefix}")
        kind = _KINDS[name[name.rfind(".") :]]
        return Response(files[name], media_type=kind, headers=HEADERS)

    return routes


FILES = read(files("memoir_edge_runtime.serve").joinpath("console"))
routes = pages(PATH, FILES)


def is_page(path: str) -> bool:
    """Whether a path is the console's, and so needs no key."""
    return path == PATH or path.startswith(f"{PATH}/")
