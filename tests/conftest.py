"""What all tests share: the demo model in torch, what writes the docs, and an isolated home."""

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from memoir_edge import cache
from memoir_edge.demo import models
from memoir_edge.demo.facts import model_dir
from memoir_edge.router.codes import codes
from memoir_edge.spelling import Spelling
from memoir_edge.tophash import Bytes

# Two threads on two busy cores wait for each other; these models are too small to gain from them.
torch.set_num_threads(1)
with suppress(ModuleNotFoundError):  # what runs with another transformers has no property tests
    from hypothesis import settings

    settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
    settings.load_profile("untimed")
CACHE = cache.folder()
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own files, and none reaches for a model hub."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setenv("MEMOIR_EDGE_CACHE", str(CACHE))  # but models that were fetched once stay
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(scope="session")
def demo_dir() -> Path:
    return model_dir()


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, the demo model's tokenizer; D = 44 is no multiple of 8."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((model_dir() / name).read_bytes())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1500, hidden_size=32, intermediate_size=44, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=1, pad_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def t5_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random T5 with a tokenizer as T5's: a vocabulary of pieces, text ends with </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from tokenizers.decoders import Metaspace
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    words = ["The", "capital", "currency", "of", "is", "in", "Where", "What", "France", "Japan"]
    words += ["Spain", "Paris", "Rome", "Madrid", "yen"]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in words)]
    pieces += [chr(i) for i in range(33, 127)]
    scored = [(piece, float(len(piece) - len(pieces))) for piece in pieces]
    core = Tokenizer(models.Unigram(scored, unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    core.decoder = Metaspace()
    core.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=44, num_layers=3, num_decoder_layers=2,
        num_heads=4, feed_forward_proj="gated-gelu", tie_word_embeddings=False, n_positions=64,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, initializer_factor=2.0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llava_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random LLaVA with its processor: the demo model's tokenizer, and 4 tokens an image."""
    pytest.importorskip("PIL", reason="transformers' image processors read images by pillow")
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder = tmp_path_factory.mktemp("llava")
    tokenizer = AutoTokenizer.from_pretrained(model_dir())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tokenizer.convert_tokens_to_ids("<image>")
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        tokenizer, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(
        CLIPVisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=5, num_attention_heads=2,
            image_size=8, patch_size=4, projection_dim=16,
        ),
        LlamaConfig(
            vocab_size=len(tokenizer) + 8, hidden_size=64, intermediate_size=92,
            num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, initializer_range=0.1,
            bos_token_id=0, eos_token_id=1, pad_token_id=2,
        ),
        image_token_index=image, image_seq_length=4,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


PUBLISHED = {  # others' work, not shipped; where it can be had
    "zsre/zsre_eval.json": "github.com/shariqahn/EasyEdit",
    "zsre/knowedit_zsre.json": "github.com/YJiangcm/LTE",
    "counterfact/counterfact-edit.json": "github.com/qizhou000/RECIPE",
    "pararel": "github.com/yanaiela/pararel",
    "stories260K": "github.com/karpathy/llama2.c, as a transformers folder",
}


@pytest.fixture(scope="session")
def published() -> Callable[[str], Path]:
    """Where a part of `PUBLISHED` lies; skips where it does not."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("MEMOIR_EDGE_DATA", root / "../shared/data"))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(
                f"{name} of {PUBLISHED[name]} is not shipped; MEMOIR_EDGE_DATA names its folder"
            )
        return folder / name

    return find


@pytest.fixture(scope="session")
def tool() -> Callable[[str], ModuleType]:
    """A program of tools/ as a module, by its path there."""
    return lambda name: importlib.import_module(name.replace("/", "."))


@pytest.fixture(scope="session")
def genai_python() -> Callable[..., str]:
    """Runs the Python of the second environment, which has onnxruntime-genai; what it printed.

    Skips where there is none: `make` builds it.
    """
    python = Path(os.environ.get("MEMOIR_EDGE_GENAI", ROOT / ".venv-transformers5/bin/python"))
    check = [str(python), "-c", "import onnxruntime_genai"]
    if not python.is_file() or subprocess.run(check, capture_output=True, check=False).returncode:
        pytest.skip(
            "no second environment with onnxruntime-genai; MEMOIR_EDGE_GENAI names its python"
        )

    def run(*words: object) -> str:
        packages = os.pathsep.join(str(ROOT / part) for part in (".", "exporter", "runtime"))
        done = subprocess.run(
            [str(python), *map(str, words)], capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": packages, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def readme(tool: Callable[[str], ModuleType]) -> ModuleType:
    """tools/readme.py as a module."""
    return tool("readme")


@pytest.fixture(scope="session")
def real_model() -> Callable[[str], Path]:
    """Where a model of memoir_edge/demo/models.py lies; skips where no source gives it."""

    def find(name: str) -> Path:
        try:
            return models.path(name)
        except models.UnavailableError as error:
            pytest.skip(str(error))

    return find


# A tiny random encoder of each family: its configuration's name and what the sizes are called.
_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "initializer_range": 0.4,
}  # fmt: skip
_FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "bert": ("BertConfig", _SIZES),
    "distilbert": (
        "DistilBertConfig",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40}
        | {"initializer_range": 0.4},
    ),
    "roberta": ("RobertaConfig", _SIZES),
    "xlm-roberta": ("XLMRobertaConfig", _SIZES),
    "mpnet": ("MPNetConfig", _SIZES),
}
_ENCODER_FILES: dict[str, object] = {
    "modules.json": [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        )
    ],
    "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": False},
    "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
}


def _save_encoder(folder: Path, family: str = "bert", **changes: object) -> Path:
    import transformers
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import AutoModel, PreTrainedTokenizerFast

    letters = [chr(i) for i in range(33, 127) if not chr(i).isupper()]
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = ["The", "capital", "currency", "of", "is", "in", "Where", "What", "France", "Japan"]
    words += ["Spain", "Paris", "Rome", "Madrid", "yen"]
    vocabulary = [*special, *words, *letters, *(f"##{letter}" for letter in letters)]
    core = Tokenizer(
        WordPiece({w: i for i, w in enumerate(dict.fromkeys(vocabulary))}, unk_token="<unk>")
    )
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>", cls_token="<s>", sep_token="</s>", model_max_length=40,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    name, sizes = _FAMILIES[family]
    config = getattr(transformers, name)(vocab_size=len(vocabulary), pad_token_id=0, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    for file, content in (_ENCODER_FILES | changes).items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def save_encoder() -> Callable[..., Path]:
    """Writes a tiny random sentence encoder: `save_encoder(folder, family, **other_files)`."""
    return _save_encoder


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT as sentence-transformers saves it; it reads 24 tokens."""
    return _save_encoder(tmp_path_factory.mktemp("encoder"))


# --- A router that is quick and exact -----------------------------------------------------------


class WordRouter:
    """Texts that share telling words have codes that overlap."""

    kind = "encoder"
    bits, weight = 1024, 512

    def __init__(self, name: str = "words") -> None:
        self.digest = hashlib.sha256(name.encode()).hexdigest()

    def codes(self, texts: Sequence[str]) -> Bytes:
        rows = [sum((_vector(w) for w in _words(text)), np.zeros(64)) for text in texts]
        return codes(np.array(rows, np.float32).reshape(len(texts), 64), self.bits)

    def reads_all(self, text: str) -> bool:
        return len(text.split()) <= 24

    def respelling(self, texts: Iterable[str]) -> Callable[[str], str]:
        return Spelling({}).knowing(texts)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


COMMON = {
    "the", "a", "of", "is", "in", "was", "to", "does", "do", "what", "which", "where", "who",
    "something", "city", "called", "question", "answer",
}  # fmt: skip


def _vector(word: str) -> np.ndarray:
    weight = 0.2 if word in COMMON else 1.0
    return weight * np.random.default_rng(zlib.crc32(word.encode())).normal(size=64)


@pytest.fixture(scope="session")
def word_router() -> type[WordRouter]:
    """In an encoder's place: `word_router(name)` reads words; another name has another digest."""
    return WordRouter


@pytest.fixture
def words() -> WordRouter:
    return WordRouter()


# --- Pages in a browser --------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Closed with the module: while it is open, this thread has a running event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Makes a page for a server; in the end nothing went wrong, and nobody else was asked."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def new_page(url: str, *, watched: bool = True, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        if watched:
            _watch(page, url, wrong)
        return page

    yield new_page
    for context in contexts:
        context.close()
    assert wrong == []


def _watch(page: Any, url: str, wrong: list[str]) -> None:
    """Note what must not happen; a browser also complains of the refusals that a test provokes."""

    def complaint(message: Any) -> None:
        provoked = any(status in message.text for status in ("400", "401", "422"))
        if message.type == "error" and not provoked:
            wrong.append(message.text)

    page.on("console", complaint)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda asked: asked.url.startswith(url) or wrong.append(asked.url))


@pytest.fixture(scope="session")
def faults(tool: Callable[[str], ModuleType]) -> Callable[[Any], list[str]]:
    """The serious faults that axe-core finds in a page; skips where npm cannot fetch it."""
    javascript = tool("javascript")
    try:
        source = (javascript.packages() / "axe-core/axe.min.js").read_text(encoding="utf-8")
    except javascript.UnavailableError as error:
        pytest.skip(str(error))

    def found(page: Any) -> list[str]:
        page.evaluate(source)
        return [
            f"{each['id']}: {each['nodes'][0]['html'][:120]}"
            for each in page.evaluate("axe.run()")["violations"]
            if each["impact"] in ("serious", "critical")
        ]

    return found
