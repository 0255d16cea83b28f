"""Other ways to type a prompt: without care, as a chat, behind other text.

The tool makes them keys of an edit, so that it is reached however it is asked.
"""

from collections.abc import Sequence

from memoir_edge.editor.model import BaseModel


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
        chat = [{"role": "user", "content": prompt}]
        shown = base.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        made.append(str(shown).removeprefix(base.tokenizer.bos_token or ""))
    made += [f"{text}. {prompt}" for text in texts]
    other = [text for text in dict.fromkeys(made) if text and text != prompt]
    return [text for text in other if len(base.encode(text)) < base.context]
