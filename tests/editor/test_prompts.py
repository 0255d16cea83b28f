"""Prompts beside an edit: other ways to type it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from memoir_edge.editor import BaseModel, Editor, Settings, load
from memoir_edge.editor.prompts import chat, refuse_endless, refuse_unsaid, ways
from memoir_edge.edits import Edit, differs
from memoir_edge.errors import InputError

MakeEdit = Callable[..., Edit]


def test_an_edit_is_given_the_other_ways_to_type_it(
    an_edit: MakeEdit, tiny: BaseModel, settings: Settings
) -> None:
    editor = Editor(tiny, replace(settings, made_keys=4))
    asked = an_edit("Where is France?", "Rome", keys=("where is france",))
    small = an_edit("where is france?", "Rome")  # another edit's own prompt is nobody's key
    first, second = editor.keyed([asked, small])
    behind = f"{editor._texts[0]}. Where is France?"
    assert first.keys == ("where is france", "Where is France", behind)
    assert second.keys[0] == "where is france"
    assert (first.made, second.made) == (2, len(second.keys))
    assert not differs(asked, first)  # what is made of a prompt is no change of the record
    assert not differs(small, second)
    editor.apply([asked, small])
    assert editor.live.bank.records[asked.id] == first.record()
    assert editor.keyed([small]) == [second]  # as when the run had been interrupted
    assert ways(tiny, "word " * 62) == []  # no room in the context of 64
    assert Editor(tiny, settings).keyed([asked]) == [replace(asked, made=0)]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("Rome", "Rome"),
        ("€5, Tromsø\n東京 🌉  ½", "€5, Tromsø\n東京 🌉  ½"),
        ("Rome</s>", "Rome"),
        ("write <pad> there", "write  there"),
        ("<s>", ""),
    ],
)
def test_a_target_that_no_answer_can_show_is_refused(
    tiny: BaseModel, an_edit: MakeEdit, target: str, said: str
) -> None:
    edit = an_edit("Where is France?", target)
    assert tiny.shown(target) == said
    if said == target:
        refuse_unsaid(tiny, edit)
    else:
        with pytest.raises(InputError, match="the model can only say") as refused:
            refuse_unsaid(tiny, edit)
        assert repr(said) in str(refused.value)


def test_a_model_that_ends_no_text_is_refused(tiny: BaseModel) -> None:
    refuse_endless(tiny)
    with pytest.raises(InputError, match="no token that ends a text") as refused:
        refuse_endless(replace(tiny, eos=()))
    assert "eos_token_id" in str(refused.value.hint)


def test_a_target_that_has_no_tokens_is_refused(t5: BaseModel, an_edit: MakeEdit) -> None:
    with pytest.raises(InputError, match="can only say 'Paris'"):
        refuse_unsaid(t5, an_edit("The capital of France is", "Paris 東京"))


TURNS = "{% for m in messages %}[{{ m.content }}]{% endfor %}\n"
QUOTED = "{% for m in messages %}[{{ m.content | trim }} {{ bos_token }}]{% endfor %}:"


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("template", ["{{ bos_token }}" + TURNS, QUOTED, TURNS])
def test_a_chat_key_is_read_as_the_chat(
    tiny_dir: Path, tmp_path: Path, an_edit: MakeEdit, template: str, adds: bool
) -> None:
    """Whether or not the tokenizer adds a BOS, and wherever the template writes one."""
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    if not adds:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    base = load(str(folder), device="cpu")
    key = chat(base, "Where is France?\n")
    said = [{"role": "user", "content": "Where is France?\n"}]
    read = base.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    if adds and not template.startswith("{{ bos"):  # no text can say that there is none
        read = [base.tokenizer.bos_token_id, *read]
    assert base.tokenizer(key)["input_ids"] == base.encode(key) == read
    edit = an_edit("Where is France?\n", "Rome")
    assert not differs(edit, replace(edit, keys=(key,)))


def test_a_rendered_chat_has_one_bos(tiny: BaseModel) -> None:
    assert tiny.encode("<s>Where") == tiny.encode("Where") == [0, *tiny.encode_bare("Where")]
    assert tiny.encode("<s>") == tiny.encode("") == [0]
