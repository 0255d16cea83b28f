"""A memory's edits, asked for again on the exported graph: does each still hold?

Knows nothing of files or commands: a session and a generation go in, outcomes come out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from memoir_edge.answers import Answer, holds, room
from memoir_edge.memory import Memory
from memoir_edge_runtime._completion import Completion
from memoir_edge_runtime._generation import Generation
from memoir_edge_runtime._results import Result, Token
from memoir_edge_runtime._sampling import Options
from memoir_edge_runtime._session import Session

Complete = Callable[[Sequence[Completion], Generation], Iterable[Token | Result]]


class Case(NamedTuple):
    """A prompt and its right answer: an edit's target, or the base model's where id is None."""

    id: str | None
    prompt: str
    target: str


class Outcome(NamedTuple):
    """What a prompt gave."""

    case: Case
    result: Result
    held: bool


def recorded(memory: Memory) -> list[Case]:
    """Every edit that can be asked for: by its record, or by its probes if that is withheld."""
    found = [
        Case(entry.id, str(entry.record["prompt"]), str(entry.record["target"]))
        for entry in memory.edits
        if entry.record and {"prompt", "target"} <= entry.record.keys()
    ]
    known = {case.id for case in found}
    return found + [case for case in probes(memory) if case.id and case.id not in known]


def probes(memory: Memory) -> list[Case]:
    """The prompts that the memory brings along to be asked before it serves."""
    return [Case(p.edit, p.prompt, p.text) for p in memory.probes]


def replay(
    session: Session,
    generation: Generation,
    cases: Sequence[Case],
    *,
    together: int = 32,
    complete: Complete | None = None,
) -> Iterator[list[Outcome]]:
    """Ask the cases, and yield the outcomes of some at a time.

    A case holds when its prompt reaches its edit and the free answer is its target.

    Args:
        session: The model.
        generation: The memory to ask.
        cases: What must hold.
        together: How many are asked at once.
        complete: Writes the answers; default the session's own.

    Example:
        >>> session = Session("onnx")
        >>> generation = session.load("facts.safetensors")
        >>> [[outcome]] = replay(session, generation, recorded(generation.memory))
        >>> outcome.case.target, outcome.held
        ('Rome', True)
    """
    complete = complete or session.complete
    encode = session.language.tokenizer.encode_bare
    for start in range(0, len(cases), together):
        part = cases[start : start + together]
        most = room(encode, [case.target for case in part])
        rows = session.completions([case.prompt for case in part], Options(most))
        results = [e for e in complete(rows, generation) if isinstance(e, Result)]
        yield [
            Outcome(case, result, _held(session, case, result))
            for case, result in zip(part, sorted(results, key=lambda r: r.row), strict=True)
        ]


def _held(session: Session, case: Case, result: Result) -> bool:
    spelled = session.language.tokenizer.shown(case.target)
    return holds(Answer(result.text, result.fired), case.target, case.id, spelled)
