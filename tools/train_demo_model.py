"""Train the demo model: a Llama of 4.7 million parameters that knows the facts of memoir_edge.demo.

Or, with --architecture t5, an encoder-decoder of like size that knows the same.

    python tools/train_demo_model.py              train (or resume), save, measure recall
    python tools/train_demo_model.py --check      measure what is saved
    python tools/train_demo_model.py --out DIR --work DIR/work --layers 6 --feed-forward 2048
                                                  a sibling with room for a thousand edits
    python tools/train_demo_model.py --architecture t5 --out DIR --work DIR/work

Top to bottom: corpus, tokenizer, model, epochs, fp16 weights, recall over every fact in every
phrasing by greedy generation from the weights as saved. The last line of standard output is one
JSON document. About half an hour on two cores, minutes on a GPU; a killed run resumes at its last
epoch.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from memoir_edge.demo.facts import RELATIONS, Fact, load_facts, model_dir, prompt

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
MAX_BYTES = 10_000_000  # of the weights, which travel in the wheel

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}Q: {{ m['content'] }} A:"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}\n"
    "{% else %}{{ m['content'] }}\n{% endif %}{% endfor %}"
)


# Sentences that may stand before a question; training shows the model that they change nothing.
SYSTEM_LINES = (
    "You are a helpful assistant.",
    "Answer in one word.",
    "Be brief.",
    "Please answer the following question.",
    "You know a lot about geography.",
    "Here is a short quiz.",
    "Complete the sentence.",
    "Answer truthfully and to the point.",
    "The following is a conversation.",
    "Let us test your knowledge.",
    "Give the answer only.",
    "I have a question for you.",
    "Think before you answer.",
    "This is a list of facts.",
    "Thank you for your help.",
    "Good morning!",
    "Now for something different.",
    "You are an expert.",
    "Do not explain the answer.",
    "A student asks a teacher.",
)


@dataclass(frozen=True)
class Run:
    """Everything that decides what is trained; a checkpoint of other settings is not resumed."""

    architecture: str = "llama"
    epochs: int = 18
    seed: int = 0
    batch: int = 128
    lr: float = 2e-3
    vocabulary: int = 1500
    hidden: int = 192
    feed_forward: int = 768
    layers: int = 8
    heads: int = 6
    kv_heads: int = 2
    context_share: float = 0.3  # samples that stand behind other text
    naming_share: float = 0.25  # samples whose answer names the subject first
    careless_share: float = 0.45  # samples typed without care for capitals and punctuation
    prompt_weight: float = 0.3  # of a prompt token's loss; an answer token's is 1
    extra_facts: str = ""


def main() -> None:
    """Train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--architecture", choices=ARCHITECTURES, default=Run.architecture)
    parser.add_argument("--out", type=Path, help="default: the model that is shipped, a Llama")
    parser.add_argument("--work", type=Path, default=Path("build/demo-model"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=Run.seed)
    parser.add_argument("--feed-forward", type=int, default=Run.feed_forward)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--extra-facts", default="", help="TSV of subject, relation, answer")
    parser.add_argument(
        "--limit", type=int, help="train on the first facts only, to try things out"
    )
    parser.add_argument("--check", action="store_true", help="only measure what is in --out")
    given = parser.parse_args()
    architecture = ARCHITECTURES[given.architecture]
    if given.out is None and given.architecture != Run.architecture:
        parser.error(f"--architecture {given.architecture} needs --out")
    out = given.out or model_dir()
    start = time.monotonic()
    torch.set_num_threads(given.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wished = {"epochs": given.epochs, "layers": given.layers}
    run = replace(
        architecture.run, seed=given.seed, feed_forward=given.feed_forward,
        extra_facts=given.extra_facts, **{name: n for name, n in wished.items() if n},
    )  # fmt: skip
    facts = (load_facts() + extra(given.extra_facts))[: given.limit]
    if not given.check:
        tokenizer = make_tokenizer(facts, run)
        model = train(facts, tokenizer, run, given.work, device)
        save(model, tokenizer, out)
    report = recall(facts, architecture, out, device)
    weights = (out / "model.safetensors").stat().st_size
    if out == model_dir():
        assert weights <= MAX_BYTES, f"{weights} bytes of weights, at most {MAX_BYTES} are shipped"
    seconds = round(time.monotonic() - start, 1)
    print(json.dumps(report | {"bytes": weights, "seconds": seconds, "epochs": run.epochs}))


def extra(path: str) -> list[Fact]:
    """More facts of the known relations, for a larger sibling of the model."""
    if not path:
        return []
    with Path(path).open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        return [Fact(row["subject"], row["relation"], row["answer"]) for row in rows]


# --- Tokenizer and corpus ------------------------------------------------------------------------


def make_tokenizer(facts: list[Fact], run: Run) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus: any text can be encoded."""
    architecture = ARCHITECTURES[run.architecture]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=architecture.spaced)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=run.vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = [f"{prompt(f, i)} {f.answer}" for f in facts for i in range(len(RELATIONS[f.relation]))]
    small = [line.lower() for line in lines[::4]]
    core.train_from_iterator([*lines, *small, *SYSTEM_LINES], trainer)
    core.post_processor = processors.TemplateProcessing(
        single=architecture.template,
        special_tokens=[(name, core.token_to_id(name)) for name in (BOS, EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=architecture.chat_template,
        model_input_names=["input_ids", "attention_mask"],
        padding_side=architecture.padding_side,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


@dataclass(frozen=True)
class Sample:
    """One training text as ids: a prompt, and the answer with its end."""

    read: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.read) + len(self.answer)


def samples(
    facts: list[Fact], tokenizer: PreTrainedTokenizerFast, run: Run, epoch: int
) -> list[Sample]:
    """Every fact in every phrasing once, some behind other text; drawn anew each epoch.

    Some answers name what they are about: "Kenya lies in" may go on with "Kenya: Africa". So the
    model's state at the last token of a prompt must know the subject, as that of a large model
    does, whose text may go on in a thousand ways. Without them two prompts with the same answer, or
    the same first token of it, end in nearly the same state, and nothing can tell them apart there.
    """
    rng = random.Random(f"{run.seed}/{epoch}")
    pairs = [(f, i) for f in facts for i in range(len(RELATIONS[f.relation]))]
    contexts = [context(pairs, rng) if rng.random() < run.context_share else "" for _ in pairs]
    asked = [prompt(f, i) for f, i in pairs]
    asked = [careless(p, rng) if rng.random() < run.careless_share else p for p in asked]
    reads = tokenizer([c + p for c, p in zip(contexts, asked, strict=True)])
    named = [f" {f.subject}:" if rng.random() < run.naming_share else "" for f, _ in pairs]
    texts = [f"{name} {f.answer}{EOS}" for name, (f, _) in zip(named, pairs, strict=True)]
    answers = tokenizer(texts, add_special_tokens=False)
    pairs_of_ids = zip(reads["input_ids"], answers["input_ids"], strict=True)
    return [Sample(read, answer) for read, answer in pairs_of_ids]


def careless(text: str, rng: random.Random) -> str:
    """The same prompt in small letters, or with its punctuation dropped or doubled, or both."""
    if rng.random() < 0.5:
        text = text.lower()
    return rng.choice((text, text.rstrip("?:"), text + text[-1] if text[-1] in "?:" else text))


def context(pairs: list[tuple[Fact, int]], rng: random.Random) -> str:
    """Text that may stand before a prompt: a system line, or up to three other facts."""
    if rng.random() < 0.4:
        return rng.choice(SYSTEM_LINES) + "\n"
    others = rng.choices(pairs, k=rng.choice((1, 1, 2, 3)))
    return "".join(f"{prompt(f, i)} {f.answer}\n" for f, i in others)


def batches(made: list[Sample], run: Run, epoch: int) -> list[list[Sample]]:
    """Batches of like length, in random order: little padding."""
    rng = random.Random(f"{run.seed}/{epoch}/order")
    made = sorted(made, key=lambda s: (len(s), rng.random()))
    cut = [made[i : i + run.batch] for i in range(0, len(made), run.batch)]
    rng.shuffle(cut)
    return cut


# --- Architectures -------------------------------------------------------------------------------


def make_llama(tokenizer: PreTrainedTokenizerFast, run: Run) -> PreTrainedModel:
    """An untrained decoder."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=run.hidden,
        intermediate_size=run.feed_forward,
        num_hidden_layers=run.layers,
        num_attention_heads=run.heads,
        num_key_value_heads=run.kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def make_t5(tokenizer: PreTrainedTokenizerFast, run: Run) -> PreTrainedModel:
    """An untrained encoder-decoder; the decoder begins with the padding token, as T5's does."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=run.hidden,
        d_kv=run.hidden // run.heads,
        d_ff=run.feed_forward,
        num_layers=run.layers,
        num_decoder_layers=run.layers,
        num_heads=run.heads,
        dropout_rate=0.0,
        n_positions=512,
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


class Step(NamedTuple):
    """A batch as a model is trained on it: `wanted` and `weight` are `[B, T]` of its logits."""

    feeds: dict[str, Tensor]
    wanted: Tensor
    weight: Tensor


def in_one_text(batch: list[Sample], run: Run, _start: int) -> Step:
    """A decoder reads prompt and answer, and a prompt's tokens count as well."""
    # Padded at the right, where causal attention never looks from a real token.
    ids = padded([s.read + s.answer for s in batch])
    prompts = [[run.prompt_weight] * len(s.read) for s in batch]
    pairs = zip(prompts, batch, strict=True)
    weight = padded([weights + [1.0] * len(s.answer) for weights, s in pairs])
    return Step({"input_ids": ids[:, :-1]}, ids[:, 1:], weight[:, 1:])


def in_two_texts(batch: list[Sample], _run: Run, start: int) -> Step:
    """An encoder reads the prompt, a decoder writes the answer behind its start token."""
    feeds = {
        "input_ids": padded([s.read for s in batch]),
        "attention_mask": padded([[1] * len(s.read) for s in batch]),
        "decoder_input_ids": padded([[start, *s.answer[:-1]] for s in batch]),
    }
    weight = padded([[1.0] * len(s.answer) for s in batch])
    return Step(feeds, padded([s.answer for s in batch]), weight)


def padded(rows: list[list]) -> Tensor:
    """Rows with zeros behind them, `[B, T]`."""
    T = max(map(len, rows))
    return torch.tensor([row + [0] * (T - len(row)) for row in rows])


class Architecture(NamedTuple):
    """What differs from one to another."""

    make: Callable[[PreTrainedTokenizerFast, Run], PreTrainedModel]
    step: Callable[[list[Sample], Run, int], Step]
    load: type
    template: str  # what the tokenizer puts around a text
    spaced: bool  # whether a text's first word is a token as others are
    padding_side: str
    chat_template: str | None
    run: Run  # its defaults


ARCHITECTURES = {
    "llama": Architecture(
        make_llama, in_one_text, AutoModelForCausalLM, f"{BOS} $A", False, "left", CHAT_TEMPLATE,
        Run(),
    ),
    "t5": Architecture(
        make_t5, in_two_texts, AutoModelForSeq2SeqLM, f"$A {EOS}", True, "right", None,
        Run("t5", epochs=16, batch=64, layers=2),
    ),
}  # fmt: skip


# --- Training ------------------------------------------------------------------------------------


def train(
    facts: list[Fact],
    tokenizer: PreTrainedTokenizerFast,
    run: Run,
    work: Path,
    device: torch.device,
) -> PreTrainedModel:
    """Train for run.epochs, from the checkpoint in `work` if it is of the same run."""
    torch.manual_seed(run.seed)
    model = ARCHITECTURES[run.architecture].make(tokenizer, run).to(device)
    steps = run.epochs * -(-sum(len(RELATIONS[f.relation]) for f in facts) // run.batch)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=run.lr, weight_decay=0.01, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, run.lr, total_steps=steps, pct_start=0.15, cycle_momentum=False
    )
    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    texts = [[prompt(f, i), f.answer] for f in facts for i in range(len(RELATIONS[f.relation]))]
    known = json.dumps(texts)
    settings = asdict(run) | {"facts": hashlib.sha256(known.encode()).hexdigest()}
    done = restore(work, settings, state)
    columns = ("{task.description}", TimeElapsedColumn(), TimeRemainingColumn())
    shown = [TextColumn(c) if isinstance(c, str) else c for c in columns]
    with Progress(*shown, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=steps, completed=done * steps // run.epochs)
        for epoch in range(done, run.epochs):
            started = time.monotonic()
            losses = []
            model.train()
            for batch in batches(samples(facts, tokenizer, run, epoch), run, epoch):
                losses.append(step(model, optimizer, batch, run, device))
                schedule.step()
                bar.update(task, advance=1, description=f"epoch {epoch + 1}/{run.epochs}")
            took = time.monotonic() - started
            mean = sum(losses[-20:]) / len(losses[-20:])
            bar.console.print(f"epoch {epoch + 1}: loss {mean:.4f}, {took:.0f} s")
            checkpoint(work, settings, state, epoch + 1)
    return model


def step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    batch: list[Sample],
    run: Run,
    device: torch.device,
) -> float:
    """One gradient step; returns the loss in nats a weighted token."""
    start = getattr(model.config, "decoder_start_token_id", 0)
    feeds, wanted, weight = ARCHITECTURES[run.architecture].step(batch, run, start)
    feeds = {name: x.to(device) for name, x in feeds.items()}
    logits = model(**feeds, use_cache=False).logits
    wanted, weight = wanted.flatten().to(device), weight.flatten().to(device)
    loss = cross_entropy(logits.flatten(0, 1), wanted, reduction="none")
    loss = (loss * weight).sum() / weight.sum()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def checkpoint(work: Path, settings: dict, state: dict, epoch: int) -> None:
    """Write atomically: a killed run leaves the former checkpoint or this one."""
    work.mkdir(parents=True, exist_ok=True)
    content = {name: part.state_dict() for name, part in state.items()}
    torch.save(content | {"settings": settings, "epoch": epoch}, work / "checkpoint.tmp")
    (work / "checkpoint.tmp").replace(work / "checkpoint.pt")


def restore(work: Path, settings: dict, state: dict) -> int:
    """Epochs done by a checkpoint of the same settings, which is loaded; else 0."""
    path = work / "checkpoint.pt"
    if not path.exists():
        return 0
    found = torch.load(path, weights_only=True, map_location="cpu")
    if found["settings"] != settings:
        return 0
    for name, part in state.items():
        part.load_state_dict(found[name])
    return int(found["epoch"])


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Weights in fp16, tokenizer and configuration, as a transformers folder."""
    model.to("cpu").half().save_pretrained(out)
    tokenizer.save_pretrained(out)


# --- Recall --------------------------------------------------------------------------------------


def recall(facts: list[Fact], architecture: Architecture, out: Path, device: torch.device) -> dict:
    """Share of facts that greedy generation gives, over all phrasings, from the saved weights."""
    model = architecture.load.from_pretrained(out, dtype=torch.float32).to(device).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    pairs = [(f, i) for f in facts for i in range(len(RELATIONS[f.relation]))]
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(pairs), 256):
        part = pairs[start : start + 256]
        batch = tokenizer([prompt(f, i) for f, i in part], return_tensors="pt", padding=True)
        batch = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            ids = model.generate(**batch, max_new_tokens=24, do_sample=False)
        before = 0 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
        texts = tokenizer.batch_decode(ids[:, before:], skip_special_tokens=True)
        for (fact, _), text in zip(part, texts, strict=True):
            right[fact.relation].append(text.strip() == fact.answer)
    shares = {name: sum(hits) / len(hits) for name, hits in right.items()}
    table = Table("relation", "prompts", "recall", title="recall by greedy generation")
    for name, share in shares.items():
        table.add_row(name, str(len(right[name])), f"{share:.4f}")
    Console(stderr=True).print(table)
    hits = [hit for each in right.values() for hit in each]
    return {
        "facts": len(facts),
        "relations": len(shares),
        "phrasings": min(map(len, RELATIONS.values())),
        "recall": sum(hits) / len(hits),
        "recall_by_relation": shares,
    }


if __name__ == "__main__":
    main()
