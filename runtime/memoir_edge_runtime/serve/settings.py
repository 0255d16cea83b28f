"""What a server is told when it starts: one dataclass, made at the edge and passed down.

Knows nothing of what is done with it.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from memoir_edge.errors import InputError

# As browsers send it: in small letters, without a default port. "*" within one would match nothing.
_ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?"
)
ADMIN_KEY, API_KEY = "MEMOIR_EDGE_ADMIN_KEY", "MEMOIR_EDGE_API_KEY"  # in the environment


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits, keys and files; seconds and bytes.

    Raises:
        InputError: A value that cannot be meant.
    """

    memory_roots: tuple[Path, ...] = ()  # where administrators may load memories from
    watch: Path | None = None
    verify: bool = True  # replay a memory's probes before it answers
    admin_key: str | None = field(default=None, repr=False)  # None: no admin routes
    api_key: str | None = field(default=None, repr=False)  # None: the other routes are open
    origins: tuple[str, ...] = ()  # of pages whose scripts may ask; "*" is every one
    max_rows: int = 32  # answers written at once
    max_queue: int = 256  # answers that wait
    prefill_tokens: int = 256  # of prompts, read between two tokens
    prefix_mb: int = 256  # of prompts' beginnings, kept for others that begin alike
    max_choices: int = 64  # prompts times n of one request
    max_new_tokens: int = 1024  # of one answer
    max_prompt_tokens: int | None = None  # None: the model's context
    max_body: int = 1_000_000  # bytes
    max_memories: int = 16
    deadline: float = 120.0  # seconds of one request, waiting included
    drain: float = 30.0  # seconds that running requests get when the server stops
    log_prompts: bool = False
    traces: bool = False  # spans of OpenTelemetry
    console: bool = False  # pages for a browser, below /console

    def __post_init__(self) -> None:
        for name in (
            "max_rows", "max_queue", "prefill_tokens", "max_choices", "max_new_tokens",
            "max_prompt_tokens", "max_body", "max_memories", "deadline", "drain",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}, expected a positive number")
        if self.drain == math.inf:
            raise InputError("drain is inf, expected a number of seconds")
        if self.prefix_mb < 0:
            raise InputError(f"prefix_mb is {self.prefix_mb}, expected 0 or more")
        for origin in self.origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise InputError(
                    f"{origin!r} is no origin as browsers send it",
                    hint="give each as https://host or http://host:port, in small letters and "
                    "without a default port",
                )
        for name in ("admin_key", "api_key"):
            key = getattr(self, name)
            if key is not None and (len(key) < 8 or not key.isascii() or not key.isprintable()):
                raise InputError(f"{name} must be 8 or more printable ASCII characters")
        if self.admin_key is not None and self.admin_key == self.api_key:
            raise InputError("admin_key and api_key are the same", hint="use two keys")
