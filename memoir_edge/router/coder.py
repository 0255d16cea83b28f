"""Whether a memory's keys are a router's codes."""

from memoir_edge.errors import MismatchError
from memoir_edge.memory import Memory
from memoir_edge.memory import Router as Identity
from memoir_edge.router.encoder import Router


def identity(router: Router) -> Identity:
    """What a memory says of the router that made its keys."""
    return Identity(router.kind, router.digest, router.bits, router.weight)


def check_router(memory: Memory, router: Router | None) -> None:
    """Raise MismatchError unless a memory's keys are this router's codes; None: are masks."""
    has = memory.codes.router if memory.codes else None
    wants = identity(router) if router else None
    if has == wants:
        return
    if has is None:
        raise MismatchError(
            "the memory is routed by the model's activations, asked for is an encoder",
            hint="leave --encoder out to go on with it, or write to a new file",
        )
    if wants is None:
        raise MismatchError(
            f"the memory is routed by the {has.kind} {has.digest[:12]}, and none was given",
            hint="name it with --encoder",
        )
    raise MismatchError(
        f"the memory's router is {has.kind} {has.digest[:12]} ({has.bits} bits), the one given is "
        f"{wants.kind} {wants.digest[:12]} ({wants.bits} bits)",
        hint="give the encoder that the memory was made with",
    )
