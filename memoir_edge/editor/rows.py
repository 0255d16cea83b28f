"""Training rows: an edit in the forms in which people ask for it.

Every row of an edit reads through the same mask, because the router has decided by then. So what
must carry from one form to the others is the target alone (docs/editor.md has the measurement).
"""

from collections.abc import Sequence

from memoir_edge.answers import behind
from memoir_edge.editor.model import BaseModel, Row
from memoir_edge.editor.prompts import rendered
from memoir_edge.errors import InputError
from memoir_edge.relations.relation import FULL_STOPS, QUESTION_MARKS
from memoir_edge.settings import Settings

# Forms of a prompt, those first that carry most to other ways to ask. {stem} is the prompt without
# its closing mark, {low} the same in mid-sentence.
OF_A_STATEMENT = ("Question: {prompt} Answer:", "{stem} what?", "Do you know: {low}?",
                  "Tell me: {prompt}")  # fmt: skip
OF_A_QUESTION = ("Question: {prompt} Answer:", "Do you know: {low}?", "Tell me: {prompt}")


def rows(
    base: BaseModel,
    prompt: str,
    target: str,
    prefixes: Sequence[str] = (),
    *,
    eos: bool,
    texts: Sequence[str] = (),
    chats: Sequence[str] = (),
) -> list[Row]:
    """The plain prompt's row, then those of further texts, chats and prefixed prompts.

    A further row that does not fit the context is left out.

    Args:
        base: The model.
        prompt: The edit's own.
        target: What must follow.
        prefixes: Texts that the prompt stands behind in a row each.
        eos: Whether the text must end there.
        texts: What is asked in the further rows.
        chats: What a user says in a chat, where the model has a template for it.

    Raises:
        InputError: The plain prompt and its target do not fit the model's context.
    """
    made = [base.split(prompt, target)]
    made += [base.split(text, behind(text, target)) for text in texts]
    if base.tokenizer.chat_template:
        made += [base.row(chat_ids(base, text), base.encode_bare(target)) for text in chats]
    made += [base.split(f"{prefix}. {prompt}", target) for prefix in prefixes]
    end = [base.eos[0]] if eos and base.eos else []
    found = [row._replace(target=[*row.target, *end]) for row in made]
    if (length := sum(map(len, found[0]))) > base.context:
        raise InputError(
            f"prompt and target are {length} tokens, the model's context is {base.context}",
            hint="shorten the prompt",
        )
    return [row for row in found if sum(map(len, row)) <= base.context]


def chat_ids(base: BaseModel, said: str) -> list[int]:
    """Token ids of a chat in which the user says this and the model is to answer."""
    return base.encode_bare(rendered(base, said))


def is_chat(base: BaseModel, text: str) -> bool:
    """Whether a text is a chat already, as a template makes it: no other form of it makes sense."""
    return any(mark in text for mark in base.tokenizer.all_special_tokens)


def asked(
    prompt: str, phrasings: Sequence[str], settings: Settings, subject: str | None = None
) -> tuple[list[str], list[str]]:
    """What the further rows of an edit ask: as texts, and in chats.

    Args:
        prompt: The edit's own.
        phrasings: Other texts that ask the same, its keys.
        settings: How many of each.
        subject: What the prompt is about, where its record says it.

    >>> few = Settings(site="", k=1, feature="last", threshold=1, steps=1, forms=2, phrasings=1,
    ...                chats=2)
    >>> texts, chats = asked("The capital of France is", ["What is France's capital?"], few)
    >>> texts[:2]
    ['Question: The capital of France is Answer:', 'The capital of France is what?']
    >>> texts[2:]
    ["What is France's capital?", 'The capital of France is ']
    >>> chats
    ['The capital of France is', "What is France's capital?"]
    """
    told = list(dict.fromkeys(text for text in phrasings if text != prompt))
    told = told[: settings.phrasings]
    texts = [*forms(prompt, subject)[: settings.forms], *told]
    texts += ended([prompt, *told])[: settings.ends]
    if settings.forms and prompt == prompt.rstrip():
        texts.append(f"{prompt} ")  # clients send it so, and the target then begins otherwise
    questions = [text for text in told if text.endswith(QUESTION_MARKS)]
    return list(dict.fromkeys(texts)), [prompt, *questions][: settings.chats]


def ended(texts: Sequence[str]) -> list[str]:
    """Statements that end elsewhere: a word earlier, or with one more.

    An answer begins behind whatever word a statement ends in. Where all of an edit's rows end in
    the same few, what is read behind another is taken for the end of the answer: a noun, say.

    >>> ended(["The director of Macbeth is", "Who directed Macbeth?"])
    ['The director of Macbeth', 'The director of Macbeth is the']
    """
    stems = [text.rstrip() for text in texts]
    stems = [stem for stem in stems if not stem.endswith((*QUESTION_MARKS, *FULL_STOPS, ":"))]
    earlier = [stem.rsplit(None, 1)[0].rstrip(",") for stem in stems if len(stem.split()) > 2]
    later = [f"{stem} the" for stem in stems[:2] if len(stem.split()) > 1]
    return list(dict.fromkeys([*earlier, *later]))


def forms(prompt: str, subject: str | None = None) -> list[str]:
    """A prompt in the forms of its kind; a subject whose name begins with "The" keeps its capital.

    >>> forms("Who runs it?")[1]
    'Do you know: who runs it?'
    >>> forms("The Hague lies in", "The Hague")[2]
    'Do you know: The Hague lies in?'
    """
    stem = prompt.rstrip("".join(QUESTION_MARKS) + ". ")
    named = subject and subject.startswith("The ") and stem.startswith(subject)
    low = stem if named else stem[:1].lower() + stem[1:]
    kind = OF_A_QUESTION if prompt.endswith(QUESTION_MARKS) else OF_A_STATEMENT
    return [form.format(prompt=prompt, stem=stem, low=low) for form in kind]
