"""`memoir-edge delete`: take edits out of a memory, exactly, and show that they are gone."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memoir_edge import __version__
from memoir_edge import memory as memory_file
from memoir_edge.cli.extras import Routed, Torch, refuse_empty
from memoir_edge.cli.journals import opened
from memoir_edge.cli.modes import refuse
from memoir_edge.cli.output import Output
from memoir_edge.cli.places import check_file
from memoir_edge.edits import Edit, from_stored
from memoir_edge.errors import InputError
from memoir_edge.history import Again, Deleted, Journal, Together, Written
from memoir_edge.memory import Memory
from memoir_edge.settings import Wishes

if TYPE_CHECKING:
    from memoir_edge.router import Router


def command(
    file: Path,
    /,
    *ids: str,
    model: str | None = None,
    device: str | None = None,
    encoder: str | None = None,
    repairs: int | None = None,
    no_replay: bool = False,
    receipt: Path | None = None,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Take edits out of a memory file: their masks, keys, guards and changes.

    Then the model is asked: the base model's answers must be back, and all other edits still hold;
    those that leant on a deleted one are trained again. A receipt says so. Exit code 1 if a check
    does not hold. After an interruption the same command goes on where it was. `memoir-edge
    rollback` takes the deletion back.

    Args:
        file: A memory file with its journal beside it.
        ids: The edits to take out.
        model: A transformers folder or hub id; default the one that the journal names.
        device: cpu, cuda, cuda:1 ...; default CUDA where there is one.
        encoder: A sentence encoder that routes, folder or hub id; default the one that the journal
            names.
        repairs: Rounds in which edits that no longer hold are trained again.
        no_replay: Ask no model; nothing is checked.
        receipt: Where to write the receipt; default beside the memory file.
    """
    if not ids:
        raise InputError("no edit is named", hint="memoir-edge delete FILE ID...")
    refuse_empty("--model", model)
    if no_replay:
        refuse("--no-replay", model=model, device=device, encoder=encoder, repairs=repairs)
    if receipt is not None:
        check_file(receipt, file)
    with opened(file, output) as journal:
        begun = _begun(journal, ids)
        number = begun or len(journal.frames)
        before = _before(journal, begun) if begun else memory_file.read(file)
        gone = _records(before, ids)
        named = model or str(journal.frames[0].data.get("model", ""))
        asked = None
        if not no_replay:
            with _asking("--encoder"):
                router = Routed(encoder=encoder).load(journal)
            asked = _Asked(Torch(model=named, device=device), router, gone, before)
        if not begun:
            journal.record(Deleted(list(ids)))
        journal.write(file, finished=asked is None)
        replay = asked.again(journal, file, repairs, number) if asked else None
        after = memory_file.read(file)
        last = len(journal.frames) - 1
    document = {
        "memory": str(file),
        "digest_before": before.digest,
        "digest_after": after.digest,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool": f"memoir-edge {__version__}",
        "model": named if replay else None,
        **_told(gone, replay, after),
    }
    path = receipt or file.with_name(f"{file.name}.deleted-{last}.json")
    _write(document, path)
    _show(document, replay, output)
    output.say(f"receipt: {path}; sha256 {after.digest}")
    output.result(document | {"receipt": str(path)})
    return 0 if replay is None or replay.held else 1


def _begun(journal: Journal, ids: Sequence[str]) -> int | None:
    """Number of the step at which these edits went, if that deletion was interrupted.

    Raises:
        InputError: It was not, and one of the edits cannot be deleted.
    """
    state, way = journal.state(), journal.way_to(len(journal.frames) - 1)
    last = next((f for f in reversed(way) if f.kind in (Deleted.kind, Together.kind)), None)
    if state.changed and last and last.kind == Deleted.kind and set(last.data["edits"]) == set(ids):
        return last.number
    Deleted(list(ids)).check(state.bank.records, state.fixed)
    return None


def _before(journal: Journal, step: int) -> Memory:
    """The memory that a deletion began from."""
    way = reversed(journal.way_to(step - 1))
    digest = next((f.data["digest"] for f in way if f.kind == Written.kind), journal.origin.digest)
    return replace(journal.compile(step - 1), digest=digest)


def _records(before: Memory, ids: Sequence[str]) -> list[Edit]:
    held = {entry.id: entry.record for entry in before.edits}
    return [from_stored(held[id]) for id in dict.fromkeys(ids)]


@contextmanager
def _asking(option: str) -> Iterator[None]:
    """While open, what cannot be loaded is to be given with an option, or nothing to be asked."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"cannot ask the model before and after: {error}",
            hint=f"give it with {option}, or pass --no-replay to delete unchecked",
        ) from error


class Replay(NamedTuple):
    """What the model says after a deletion."""

    deleted: list[dict[str, Any]]  # of each deleted edit, in their order
    remaining: dict[str, Any]  # how many, which of them fail, which were trained again
    held: bool  # the base model's answers are back, and every other edit holds


class _Asked:
    """The model, asked before a deletion and after it."""

    def __init__(
        self, torch: Torch, router: "Router | None", gone: Sequence[Edit], before: Memory
    ) -> None:
        with _asking("--model"):
            self.base = torch.load()
        from memoir_edge.editor import Editor, choose

        self.gone, self.before, self.router = gone, before, router
        editor = Editor(self.base, choose(self.base, former=before), before, router=router)
        self.was = editor.answers(gone, memory=True)
        self.wanted = editor.answers(gone, memory=False)

    def again(self, journal: Journal, file: Path, repairs: int | None, step: int) -> Replay:
        """Ask again, and train again what leant on the edits that were deleted at a step."""
        from memoir_edge.editor import Editor, choose

        settings = choose(self.base, Wishes(repairs=repairs), self.before)
        editor = Editor(self.base, settings, journal=journal, router=self.router)
        state = editor.settle()
        again = [f.data["edit"] for f in journal.frames[step:] if f.kind == Again.kind]
        now = editor.answers(self.gone, memory=True)
        journal.write(file)
        deleted = [
            {
                "before": was.text,
                "base": wanted.text,
                "after": is_.text,
                "edit": is_.edit,
                "base_is_back": is_.text == wanted.text,
            }
            for was, wanted, is_ in zip(self.was, self.wanted, now, strict=True)
        ]
        remaining = {
            "edits": len(editor.edits),
            "failed": state.failed,
            "trained_again": again,
        }
        back = all(row["base_is_back"] for row in deleted)
        return Replay(deleted, remaining, back and not state.failed)


def _told(gone: Sequence[Edit], replay: Replay | None, after: Memory) -> dict[str, Any]:
    """The edits that went and those that stay, with what the model says of them if it was asked."""
    deleted = [{"id": e.id, "prompt": e.prompt, "target": e.target} for e in gone]
    if replay is None:
        return {"deleted": deleted, "remaining": {"edits": len(after.edits)}}
    said = [one | more for one, more in zip(deleted, replay.deleted, strict=True)]
    return {"deleted": said, "remaining": replay.remaining}


def _write(document: dict[str, Any], path: Path) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the edits are deleted, but the receipt {path} cannot be written: {error.strerror}",
            hint="memoir-edge rollback takes the deletion back, to be repeated",
        ) from error


def _show(document: dict[str, Any], replay: Replay | None, output: Output) -> None:
    said = {"before": "before", "after": "after", "base": "base model"} if replay else {}
    columns = {"id": "id", "prompt": "prompt", **said}
    rows = [[row[name] for name in columns] for row in document["deleted"]]
    output.table("deleted", list(columns.values()), rows)
    if replay is None:
        output.say(f"{document['remaining']['edits']} edits remain; no model was asked")
        return
    count, failed, again = (replay.remaining[n] for n in ("edits", "failed", "trained_again"))
    trained = f", {len(again)} trained again" if again else ""
    bad = f"; not: {', '.join(failed)}" if failed else ""
    output.say(f"{count - len(failed)} of {count} other edits hold{trained}{bad}")
    for row in document["deleted"]:
        if not row["base_is_back"]:
            output.say(f"{row['id']} is not the base model's again: {row['edit']} answers it")
