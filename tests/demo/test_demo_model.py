"""The trained model as shipped: its size, its tokenizer, its chat template, what it recalls."""

import random

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from memoir_edge.demo.facts import RELATIONS, load_facts, model_dir, prompt

PAIRS = [(fact, i) for fact in load_facts() for i in range(len(RELATIONS[fact.relation]))]
MAX_BYTES = 10_000_000


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(model_dir())


@pytest.fixture(scope="module")
def core() -> Tokenizer:
    """What a server reads: the same file, without transformers."""
    return Tokenizer.from_file(str(model_dir() / "tokenizer.json"))


def test_weights_are_half_precision_and_small() -> None:
    files = list(model_dir().glob("*.safetensors"))
    assert [file.name for file in files] == ["model.safetensors"]
    assert files[0].stat().st_size <= MAX_BYTES
    config = AutoConfig.from_pretrained(model_dir())
    assert config.dtype == torch.float16
    assert config.tie_word_embeddings


def test_both_tokenizer_libraries_agree(
    tokenizer: PreTrainedTokenizerFast, core: Tokenizer
) -> None:
    texts = [prompt(fact, i) for fact, i in PAIRS]
    assert tokenizer(texts)["input_ids"] == [e.ids for e in core.encode_batch(texts)]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.vocab_size == core.get_vocab_size() == 1500


def test_a_prompt_is_a_prefix_of_prompt_and_answer(core: Tokenizer) -> None:
    prompts = [prompt(fact, i) for fact, i in PAIRS]
    wholes = [f"{text} {fact.answer}" for text, (fact, _) in zip(prompts, PAIRS, strict=True)]
    encoded = zip(core.encode_batch(prompts), core.encode_batch(wholes), strict=True)
    broken = [w.tokens for p, w in encoded if w.ids[: len(p.ids)] != p.ids or p.ids == w.ids]
    assert broken == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "two  blanks",
        "tab\tand\nline",
        "Brasília, Côte d'Ivoire",
        "日本の首都は",
        "🙂\u200d🧪",
        "\x00\x7f",
    ],
)
def test_any_text_survives_the_tokenizer(
    text: str, tokenizer: PreTrainedTokenizerFast, core: Tokenizer
) -> None:
    ids = core.encode(text).ids
    assert ids == tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert core.decode(ids, skip_special_tokens=True) == text


def test_a_one_turn_chat_is_the_chat_phrasing(tokenizer: PreTrainedTokenizerFast) -> None:
    for fact, i in PAIRS:
        text = prompt(fact, i)
        if text.startswith("Q: "):
            asked = text.removeprefix("Q: ").removesuffix(" A:")
            turn = [{"role": "user", "content": asked}]
            assert tokenizer.apply_chat_template(turn, tokenize=False) == f"<s>{text}"


def test_a_longer_chat_is_one_line_a_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "What is the capital of Japan?"},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<s>Be brief.\nQ: What is the capital of France? A: Paris\n"
        "Q: What is the capital of Japan? A:"
    )


def test_recall_of_a_fixed_sample(tokenizer: PreTrainedTokenizerFast) -> None:
    """400 of all pairs, drawn once; tools/train_demo_model.py --check asks every one."""
    model = LlamaForCausalLM.from_pretrained(model_dir(), dtype=torch.float32).eval()
    pairs = random.Random(0).sample(PAIRS, 400)
    pairs.sort(key=lambda pair: len(prompt(*pair)))  # like lengths together: little padding
    wrong = []
    for start in range(0, len(pairs), 100):
        part = pairs[start : start + 100]
        texts = [prompt(*pair) for pair in part]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
        said = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        answers = zip(texts, said, part, strict=True)
        wrong += [(t, s, f.answer) for t, s, (f, _) in answers if s.strip() != f.answer]
    assert len(wrong) <= 0.03 * len(pairs), wrong
