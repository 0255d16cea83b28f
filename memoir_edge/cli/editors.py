"""The way from a command to the editor of a memory that is begun or gone on with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memoir_edge.base import locate
from memoir_edge.cli.extras import Routed, Torch, named
from memoir_edge.edits import Edit
from memoir_edge.errors import MismatchError
from memoir_edge.history import Journal
from memoir_edge.identity import former_digests, model_digest
from memoir_edge.memory import Memory
from memoir_edge.settings import Wishes

if TYPE_CHECKING:
    from memoir_edge.editor import Editor


def open_editor(
    torch: Torch,
    routed: Routed,
    wishes: Wishes,
    former: Memory | None,
    journal: Journal | None,
    new: Sequence[Edit] = (),
) -> "Editor":
    """The editor, with everything that can be refused refused; its journal is in memory yet.

    Args:
        torch: The model.
        routed: What prompts are routed by.
        wishes: How to edit.
        former: The memory to go on from.
        journal: That memory's, which may name the encoder.
        new: The edits that will be made, where they are known.

    Raises:
        InputError: Something is not installed or not there, nothing ends a text of the model, an
            edit is too long, no answer can show its target, or there is no room for all of them.
    """
    relations = routed.known()
    router = routed.load(journal)
    base = torch.load()
    from memoir_edge.editor import Editor, choose, refuse_endless, refuse_too_long, refuse_unsaid
    from memoir_edge.editor.prompts import rendered

    settings = choose(base, wishes, former, coded=router is not None)
    if new and settings.eos:
        refuse_endless(base)
    for edit in new:
        refuse_too_long(base, edit)
        refuse_unsaid(base, edit)
    if new and base.tokenizer.chat_template and (settings.chats or settings.made_keys):
        rendered(base, new[0].prompt)  # refused now, not once the journal is begun
    editor = Editor(base, settings, former, router=router, relations=relations)
    editor.refuse_too_many(new)
    return editor


def refuse_another(torch: Torch, memory: Memory) -> None:
    """Raise MismatchError unless a memory is of the model that is named; nothing is loaded."""
    folder = locate(torch.model)
    digest, base = model_digest(folder), memory.base
    if not (base.is_of(digest) or base.is_of(digest, former_digests(folder))):
        raise MismatchError(
            f"the memory's base model is {base.model_id} ({base.digest}), "
            f"--model {torch.model} is another ({digest})",
            hint="use the model that the memory was made with, or write to a new file",
        )


def about_of(torch: Torch, routed: Routed) -> dict[str, str]:
    """What a journal that such an editor begins notes."""
    return {"model": named(torch.model), **routed.about()}
