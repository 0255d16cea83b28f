"""What the demo shows: ten edits each, asked in ways that do not meet."""

import pytest

from memoir_edge.demo.stages import CHAT, chat_model, embedded
from memoir_edge.edits import default_id


def test_the_embedded_stage_asks_a_paraphrase_and_a_neighbour() -> None:
    stage = embedded()
    assert stage.encoder is None
    assert (stage.model / "config.json").is_file()
    for each in stage.shown:
        assert each.paraphrases["paraphrase"] in each.edit.rephrase
        assert each.neighbour in each.edit.hard_negatives


def test_the_chat_models_edits_do_not_meet() -> None:
    prompts = [prompt for _, prompt, *_ in CHAT.values()]
    assert len(CHAT) == len(set(prompts)) == 10
    for subject, prompt, target, *asked, neighbour in CHAT.values():
        assert subject.lower() in prompt.lower()
        assert all(subject.lower() in text.lower() for text in asked)
        assert len({prompt, *asked, neighbour}) == 4
        assert neighbour not in prompts
        assert target not in prompt
        assert default_id(prompt, target)


def test_without_a_source_the_chat_model_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from memoir_edge.demo import models

    def nowhere(name: str) -> None:
        raise models.UnavailableError(f"{name}: nobody answered")

    monkeypatch.setattr(models, "path", nowhere)
    with pytest.raises(models.UnavailableError, match="smollm2: nobody answered"):
        chat_model()
