"""Prompts beside an edit's own: the model's texts, and other ways to type a prompt."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from memoir_edge.answers import alike
from memoir_edge.editor.model import BaseModel, greedy
from memoir_edge.edits import Edit
from memoir_edge.errors import InputError, first_line
from memoir_edge.text import templated

# The paper's seeds for texts that the model writes itself, and their lengths in tokens.
SEEDS = ("I", "You", "Because", "Yes", "Q: ")
LENGTHS = (5, 10)


def own_texts(base: BaseModel, count: int) -> list[str]:
    """Up to `count` short texts written greedily by the model, of each length from each seed."""
    rows = [base.encode(seed) for seed in SEEDS]
    texts: list[str] = []
    for length in LENGTHS:
        grown = greedy(base, rows, length, stop=False)
        texts += [seed + base.decode(ids) for seed, ids in zip(SEEDS, grown, strict=True)]
    return texts[:count]


def ways(base: BaseModel, prompt: str, texts: Sequence[str] = ()) -> list[str]:
    """Each other way once, those that lose most without a key first (docs/routing.md).

    Args:
        base: The model; what its context has no room for is left out.
        prompt: An edit's own.
        texts: What the prompt may stand behind.
    """
    plain = prompt.rstrip("?:.! ")
    made = [plain, prompt.lower(), plain.lower()]
    if base.tokenizer.chat_template:
        made.append(chat(base, prompt))
    made += [f"{text}. {prompt}" for text in texts]
    other = [text for text in dict.fromkeys(made) if text and text != prompt]
    return [text for text in other if len(base.encode(text)) < base.context]


def rendered(base: BaseModel, said: str) -> str:
    """A chat of one user message as the model's template makes it, up to where it is answered."""

    def render(chat: Any) -> str:
        return str(
            base.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        )

    try:
        return templated(render, [{"role": "user", "content": said}], said.strip())
    except Exception as error:  # a template raises whatever it likes
        raise InputError(
            f"the chat template of {base.id} cannot be used: {first_line(error)}",
            hint="mend it, in chat_template.jinja or tokenizer_config.json",
        ) from error


def chat(base: BaseModel, prompt: str) -> str:
    """The text that the tokenizer turns into what a chat of one user message is read as.

    Where the tokenizer adds a BOS to any text, the template's own is left out.
    """
    text = rendered(base, prompt)
    bos = base.tokenizer.bos_token
    twice = bos and list(base.tokenizer(text)["input_ids"])[:2] == 2 * [base.tokenizer.bos_token_id]
    return text.removeprefix(str(bos)) if twice else text


def keyed(
    base: BaseModel, edits: Sequence[Edit], held: Collection[str], texts: Sequence[str], most: int
) -> list[Edit]:
    """Edits with further keys that are made from their prompts, and how many are made.

    Args:
        base: The model.
        edits: The edits; no edit's own prompt is made another's key.
        held: Prompts of edits that are there already.
        texts: What a prompt may stand behind.
        most: Keys that are made of a prompt.
    """
    asked = {*held, *(edit.prompt for edit in edits)}
    found = []
    for edit in edits:
        known = asked | set(edit.keys) | set(edit.guards)
        other = ways(base, edit.prompt, texts) if most else []
        made = [text for text in other if text not in known][:most]
        keys = (*edit.keys, *made)
        found.append(replace(edit, keys=keys, made=(edit.made or 0) + len(made)))
    return found


def length(base: BaseModel, edit: Edit) -> int:
    """Tokens of the longest text that an edit makes the model read, its end included."""
    texts = (f"{edit.prompt} {edit.target}", *edit.keys, *edit.guards)
    return max(len(base.encode(text)) for text in texts) + 1


def refuse_too_long(base: BaseModel, edit: Edit) -> None:
    """Raise InputError unless an edit fits the model's context."""
    if (found := length(base, edit)) > base.context:
        raise InputError(
            f"edit {edit.id}: {found} tokens, the model's context is {base.context}",
            hint="shorten it, or leave it out",
        )


def refuse_endless(base: BaseModel) -> None:
    """Raise InputError unless something ends a text: an answer would go on behind any target."""
    if not base.eos:
        raise InputError(
            f"{base.id} has no token that ends a text, so no answer could end behind its target",
            hint='name one in generation_config.json, as {"eos_token_id": 0}, or in the tokenizer',
        )


def refuse_unsaid(base: BaseModel, edit: Edit) -> None:
    """Raise InputError unless an answer can show an edit's target."""
    if not alike(said := base.shown(edit.target), edit.target):
        raise InputError(
            f"edit {edit.id}: the target is {edit.target!r}, and the model can only say {said!r}",
            hint="write it without special tokens and without what its tokenizer does not know",
        )
