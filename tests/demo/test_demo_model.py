"""The trained model as shipped: its size, its tokenizer, its chat template, what it recalls."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from memoir_edge.demo.facts import RELATIONS, load_facts, model_dir, prompt
from memoir_edge.editor import load
from memoir_edge.editor.model import greedy

ROOT = Path(__file__).parents[2]
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


def test_system_lines_are_distinct_and_no_prompts(tool: Callable[[str], ModuleType]) -> None:
    lines = tool("train_demo_model").SYSTEM_LINES
    assert len(set(lines)) == len(lines)
    assert not set(lines) & {prompt(fact, phrasing) for fact, phrasing in PAIRS}
    assert all("\n" not in line and line == line.strip() for line in lines)


def test_the_same_facts_as_an_encoder_decoder(tool: Callable[[str], ModuleType]) -> None:
    """Prompts go to the encoder, answers to the decoder; a decoder alone reads both in a row."""
    train = tool("train_demo_model")
    facts = load_facts()[:4]
    batch = [train.Sample([4, 5, 1], [7, 1]), train.Sample([6, 1], [8, 9, 1])]
    two = train.in_two_texts(batch, train.Run(), 2)
    assert two.feeds["input_ids"].tolist() == [[4, 5, 1], [6, 1, 0]]
    assert two.feeds["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert two.feeds["decoder_input_ids"].tolist() == [[2, 7, 0], [2, 8, 9]]
    assert two.wanted.tolist() == [[7, 1, 0], [8, 9, 1]]
    assert two.weight.tolist() == [[1, 1, 0], [1, 1, 1]]
    one = train.in_one_text(batch, train.Run(prompt_weight=0.5), 0)
    assert one.feeds["input_ids"].tolist() == [[4, 5, 1, 7], [6, 1, 8, 9]]
    assert one.wanted.tolist() == [[5, 1, 7, 1], [1, 8, 9, 1]]
    assert one.weight.tolist() == [[0.5, 0.5, 1, 1], [0.5, 1, 1, 1]]
    tokenizer = train.make_tokenizer(facts, train.ARCHITECTURES["t5"].run)
    ids = tokenizer("The capital of France is")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "The capital of France is"


@pytest.mark.slow
def test_an_encoder_decoder_is_trained(tmp_path: Path) -> None:
    command = [
        sys.executable, str(ROOT / "tools/train_demo_model.py"), "--architecture", "t5",
        "--out", str(tmp_path / "t5"), "--work", str(tmp_path / "work"), "--limit", "4",
        "--epochs", "60", "--layers", "1", "--threads", "1",
    ]  # fmt: skip
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert json.loads(said.splitlines()[-1])["recall"] > 0.5
    base = load(str(tmp_path / "t5"), device="cpu")
    fact = load_facts()[0]
    [ids] = greedy(base, [base.encode(prompt(fact, 0))], 12)
    assert base.decode(ids).strip() == fact.answer
