"""`memoir-edge generate`: answer prompts on ONNX Runtime, without torch."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from memoir_edge.cli.output import Output, printable
from memoir_edge.cli.sessions import open_session

if TYPE_CHECKING:
    from memoir_edge_runtime import Result


def command(
    directory: Path,
    /,
    *,
    prompt: list[str],
    memory: Path | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop: list[str] | None = None,
    chat: bool = False,
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Answer prompts with an exported model, and say which edit fired.

    Args:
        directory: An export directory.
        prompt: What to answer; may be given several times.
        memory: The memory to answer with; without one the base model answers.
        max_new_tokens: Most tokens of an answer.
        temperature: 0 takes the likeliest token.
        top_k: Draw from so many likeliest tokens; 0 is all.
        top_p: Draw from the likeliest tokens that hold this share.
        seed: Makes drawing repeatable.
        stop: Text that ends an answer; may be given several times.
        chat: Put each prompt into the model's chat template, as one user message.
    """
    session = open_session(directory, memory)
    from memoir_edge_runtime import Options, Token

    asked = [
        session.chat_prompt([{"role": "user", "content": text}]) if chat else session.prompt(text)
        for text in prompt
    ]
    options = Options(max_new_tokens, temperature, top_k, top_p, seed, tuple(stop or ()))
    events = session.stream(asked, options)
    live = len(asked) == 1 and not output.json  # one answer is shown as it comes
    results: list[Result] = []
    for event in events:
        if not isinstance(event, Token):
            results.append(event)
        elif live:
            sys.stdout.write(printable(event.text))
            sys.stdout.flush()
    results.sort(key=lambda result: result.row)
    for result, text in zip(results, prompt, strict=True):
        if not output.json:
            sys.stdout.write("\n" if live else f"{printable(text + result.text)}\n")
        output.say(_fired(result))
    documents = [_document(result) for result in results]
    output.result({"results": documents} if len(documents) > 1 else documents[0])
    return 0


def _fired(result: "Result") -> str:
    routing = result.routing
    if routing.threshold is None:
        return "[base model; no memory]"
    which = f"edit {routing.edit}" if routing.edit else "base model"
    near = f" with {'guard' if routing.guard else 'key'} {routing.key!r}" if routing.key else ""
    cut = "; too long for the router: its last part decided" if routing.cut else ""
    return f"[{which}; overlap {routing.overlap:.3f}{near}, threshold {routing.threshold:g}{cut}]"


def _document(result: "Result") -> dict[str, object]:
    """The result with the router's decision beside the text."""
    flat = asdict(result)
    routing: dict[str, object] = flat.pop("routing")
    return flat | routing
