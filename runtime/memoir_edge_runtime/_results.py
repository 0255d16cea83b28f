"""What a session hands out: plain values that know nothing of how they were made."""

from dataclasses import dataclass

from memoir_edge.notebook import table


@dataclass(frozen=True)
class Routing:
    """What the router decided for one prompt.

    `candidate` is the edit of the best-matching key, also when its overlap stayed below the key's
    threshold; None if that key is a guard. Without a memory the overlap means nothing.
    """

    edit: str | None = None  # id of the edit that fired; None: the base model answers
    overlap: float = 0.0
    threshold: float | None = None
    candidate: str | None = None
    digest: str | None = None  # of the memory; None: no memory
    guard: bool = False  # the best-matching key is a guard
    key: str | None = None  # its text, where the memory holds texts
    cut: bool = False  # the prompt was longer than the router reads: its last part decided


@dataclass(frozen=True)
class Token:
    """One generated token and the text that can be shown because of it, often empty.

    `logprob` and `likeliest` are there if they were asked for. They are the model's own, before
    temperature, top-k and top-p.
    """

    row: int
    id: int
    text: str
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Result:
    """A finished row. Its tokens' texts join to `text`, their ids to `ids`."""

    row: int
    prompt: str
    text: str
    ids: tuple[int, ...]  # an end-of-text token included
    finish_reason: str  # "stop": end of text or a stop string; "length": no room left
    prompt_tokens: int
    routing: Routing

    @property
    def completion_tokens(self) -> int:
        """Number of generated tokens."""
        return len(self.ids)

    @property
    def fired(self) -> str | None:
        """Id of the edit that fired."""
        return self.routing.edit

    def _repr_html_(self) -> str:
        """Prompt, answer and routing, as a notebook shows them."""
        columns = ["prompt", "answer", "edit", "overlap", "threshold"]
        routing = self.routing
        row = (self.prompt, self.text, self.fired, routing.overlap, routing.threshold)
        return table("answer", columns, [row])


@dataclass(frozen=True)
class Forced:
    """Teacher forcing: the target's tokens and the model's first choice at each of their places."""

    target_ids: tuple[int, ...]
    predicted_ids: tuple[int, ...]
    routing: Routing
