"""A tiny random Llama, exported once, and its twin in torch: the oracle of the runtime's tests."""

import json
import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

from memoir_edge import tophash
from memoir_edge.identity import model_digest
from memoir_edge.memory import Base, Entry, Memory, from_dense, to_dense
from memoir_edge_exporter import export
from memoir_edge_runtime import Options, Session
from memoir_edge_runtime._batch import Batch
from memoir_edge_runtime._completion import CANCELLED
from memoir_edge_runtime._generation import Generation

CONTEXT, D, d, k, SITE = 96, 44, 32, 12, "model.layers.1.mlp.down_proj"  # D is no multiple of 8
SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings",
)  # fmt: skip
WORDS = ["the", "capital", "of", "is", "France", "Paris", "city", "river", "long", "who", "what"]
WORDS += ["where", "äöü", "naïve", "日本語", "東京", "🙂🌍"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(8)  # the runtime must switch both off
    tokenizer.enable_padding(length=8)
    return tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    net = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=d,
            intermediate_size=D,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,  # the least that fused attention takes
            max_position_embeddings=CONTEXT,
            initializer_range=0.25,  # wide enough for varied answers
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def export_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, exported."""
    out = tmp_path_factory.mktemp("export") / "onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while tracing
        export(model=model_dir, out=out, site=SITE)
    return out


@pytest.fixture(scope="session")
def gemma_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder of a family whose graphs optimum does not feed positions."""
    folder = tmp_path_factory.mktemp("gemma")
    for file in model_dir.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    sizes = json.loads((model_dir / "config.json").read_text())
    torch.manual_seed(0)
    GemmaForCausalLM(
        GemmaConfig(
            **{name: sizes[name] for name in SIZES},
            head_dim=8,
            initializer_range=0.25,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(export_dir: Path) -> Session:
    return Session(export_dir, threads=1)


@pytest.fixture
def session(loaded: Session) -> Session:
    """The shared session with no memory in it."""
    loaded.swap(None)
    return loaded


@dataclass
class Oracle:
    """The model in torch, and a memory as a forward hook adds it: Wm (M * a)."""

    net: LlamaForCausalLM
    digest: str | None

    @property
    def site(self) -> torch.nn.Module:
        return self.net.get_submodule(SITE)

    @torch.no_grad()
    def logits(self, ids: Sequence[int], memory: Memory | None = None, row: int = -1) -> Tensor:
        """`[T, V]`, with bank row `row` recalled; nothing cached."""
        handles = []
        if memory is not None and row >= 0:
            M = torch.from_numpy(tophash.unpack(memory.bank[row], D).astype(np.float32))
            Wm = torch.from_numpy(to_dense(memory))
            hook = lambda module, given, y: y + (given[0] * M) @ Wm.T  # noqa: E731
            handles.append(self.site.register_forward_hook(hook))
        try:
            return self.net(input_ids=torch.tensor([list(ids)])).logits[0]
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def feature(self, ids: Sequence[int], name: str) -> tophash.Floats:
        """`[1, D]`"""
        seen: list[Tensor] = []
        handle = self.site.register_forward_hook(lambda module, given, y: seen.append(given[0]))
        self.net(input_ids=torch.tensor([list(ids)]))
        handle.remove()
        return tophash.feature(
            seen[0].numpy(), tophash.span(name, np.ones((1, len(ids)), np.int64))
        )

    def mask(self, ids: Sequence[int], memory: Memory) -> tophash.Bytes:
        f = self.feature(ids, memory.feature)
        return tophash.pack(
            tophash.mask(f, memory.center, memory.scale, memory.permutation, memory.k)
        )

    def route(self, ids: Sequence[int], memory: Memory) -> tophash.Routes:
        undecided = np.zeros(1, np.int64)
        keys = (memory.bank, memory.owner, memory.thresholds, memory.k)
        return tophash.route(self.mask(ids, memory), undecided, *keys)

    def greedy(self, ids: Sequence[int], n: int, memory: Memory | None = None) -> tuple[int, ...]:
        """Up to n tokens, an end-of-text token included; everything recomputed for each."""
        row = -1 if memory is None else int(self.route(ids, memory).route[0]) - 1
        out: list[int] = []
        while len(out) < n and len(ids) + len(out) < CONTEXT and 1 not in out:
            out.append(int(self.logits([*ids, *out], memory, row)[-1].argmax()))
        return tuple(out)


@pytest.fixture(scope="session")
def oracle(model_dir: Path) -> Oracle:
    torch.set_num_threads(1)  # the model is far too small to share out
    net = LlamaForCausalLM.from_pretrained(model_dir, local_files_only=True).eval()
    return Oracle(net, model_digest(model_dir))


@pytest.fixture(scope="session")
def make_memory(oracle: Oracle, loaded: Session):
    """A memory with a random Wm whose keys are the masks of the given prompts."""

    def make(
        prompts: Sequence[str],
        *,
        seed: int = 0,
        feature: str = "mean",
        threshold: float = 0.9,
        guards: Sequence[str] = (),
        digest: str | None = oracle.digest,
        site: str = SITE,
        widths: tuple[int, int] = (D, d),
    ) -> Memory:
        D, d = widths
        drawn = np.random.default_rng(seed)
        R = len(prompts) + len(guards)
        Wm = drawn.normal(0, 1, (d, D)).astype(np.float32)
        empty = from_dense(
            Wm,
            bank=np.zeros((0, -(-D // 8)), np.uint8),
            owner=np.array([*range(len(prompts)), *[-1] * len(guards)], np.int32),
            thresholds=np.full(R, threshold, np.float32),
            center=drawn.normal(0, 0.01, D).astype(np.float32),
            scale=np.ones(D, np.float32),
            permutation=drawn.permutation(D).astype(np.int32),
            site=site,
            feature=feature,
            k=k,
            base=Base("tiny", digest),
            edits=tuple(Entry(f"edit-{i}", i) for i in range(len(prompts))),
        )
        masks = [oracle.mask(loaded.prompt(p).row.ids, empty) for p in [*prompts, *guards]]
        if not masks:
            return empty
        rest = {
            n: getattr(empty, n) for n in ("owner", "thresholds", "center", "scale", "permutation")
        }
        rest |= {n: getattr(empty, n) for n in ("site", "feature", "k", "base", "edits")}
        return from_dense(Wm, bank=np.concatenate(masks), **rest)

    return make


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Prompts of many lengths, with multi-byte characters."""
    drawn = np.random.default_rng(7)
    return [" ".join(drawn.choice(WORDS, drawn.integers(1, 9))) for _ in range(240)]


@pytest.fixture
def come_and_go(prompts) -> Callable[[Session, Generation, int], int]:
    """Checks rows that join and leave a batch by chance: each answers as it does alone.

    Some are given up on the way. Gives how many an edit answered.
    """

    def check(session: Session, generation: Generation, seed: int) -> int:
        draw = random.Random(seed)
        waiting = [
            session.completions(text, Options(max_new_tokens=draw.randint(1, 20)))[0]
            for text in draw.sample(prompts, 24)
        ]
        rows, batch = list(waiting), Batch(session.decoder, generation, session.language.context)
        while waiting or batch.live:
            coming = draw.choice([0, 0, 1, 1, 2, 5])
            if waiting and coming:
                batch.add([waiting.pop() for _ in range(min(coming, len(waiting)))])
            if batch.live and draw.random() < 0.3:
                draw.choice(batch.live).cancel()
            if batch.live:
                batch.step()
        for row in rows:
            [alone] = session.generate(row.prompt.text, row.options, memory=generation)
            assert row.result().ids == alone.ids[: len(row.ids)]
            assert row.finish_reason == CANCELLED or len(row.ids) == len(alone.ids)
            assert row.result().fired == alone.fired
        assert any(row.finish_reason == CANCELLED for row in rows)
        return sum(row.result().fired is not None for row in rows)

    return check


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory, published: Callable[[str], Path]) -> Path:
    """A trained model's export; skips where the model is absent."""
    data = published("stories260K")
    out = tmp_path_factory.mktemp("stories") / "onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(model=data, out=out)
    return out


@pytest.fixture
def folder(export_dir, tmp_path):
    """A copy of what lies beside the graph, to be spoiled."""
    for file in export_dir.glob("*.json"):
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.fixture
def spoiled(export_dir, tmp_path):
    """A copy of the export, to be spoiled."""
    return shutil.copytree(export_dir, tmp_path / "spoiled")


@pytest.fixture(scope="session")
def a_long() -> Callable[[Session, int], str]:
    """Makes a prompt of exactly so many tokens."""

    def make(session: Session, length: int) -> str:
        text = "a" * (length - 1)
        assert len(session.language.tokenizer.encode(text)) == length
        return text

    return make
