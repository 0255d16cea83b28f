"""`memoir-edge verify`: replay every edit of a memory on the exported graph."""

from pathlib import Path

from memoir_edge.cli.output import Output
from memoir_edge.cli.sessions import open_session


def command(
    directory: Path,
    /,
    *,
    memory: Path,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Replay every edit on the exported graph; exit code 1 if one does not hold.

    An edit holds when its own prompt reaches it and the free answer is its target.

    Args:
        directory: An export directory.
        memory: The memory to verify.
    """
    session = open_session(directory, memory)
    loaded = session.generation.memory
    assert loaded is not None
    from memoir_edge_runtime import recorded, replay

    cases = recorded(loaded)
    outcomes = []
    with output.progress("verifying", len(cases)) as bar:
        for part in replay(session, session.generation, cases):
            outcomes += part
            bar.advance(len(part))
    failed = [outcome.case.id for outcome in outcomes if not outcome.held]
    output.table(
        "edits",
        ["id", "prompt", "answer", "target", "fired", "overlap", "holds"],
        [
            [case.id, case.prompt, result.text.strip(), case.target, result.fired,
             result.routing.overlap, "yes" if held else "no"]
            for case, result, held in outcomes
        ],
    )  # fmt: skip
    withheld = len(loaded.edits) - len({case.id for case in cases})
    note = f"; {withheld} without a record could not be asked" if withheld else ""
    output.say(f"{len(outcomes) - len(failed)} of {len(outcomes)} edits hold{note}")
    output.result(
        {
            "memory": str(memory),
            "digest": loaded.digest,
            "checked": len(outcomes),
            "withheld": withheld,
            "failed": failed,
        }
    )
    return 1 if failed else 0
