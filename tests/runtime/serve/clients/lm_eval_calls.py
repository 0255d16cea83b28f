"""Tasks of lm-evaluation-harness, of texts and chats: an address and a tokenizer's folder follow.

They are made here, so that no data set is fetched: choices by probability, and generated texts.
"""

import sys

from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask

ROWS = [{"asked": "the capital of", "choices": [" France", " a long river"], "gold": 0}] * 3


def data(**_: object) -> dict[str, Dataset]:
    """The rows, as a data set with one split."""
    return {"test": Dataset.from_list(ROWS)}


COMMON = {"custom_dataset": data, "test_split": "test", "doc_to_text": "{{asked}}"}
CHOOSES = {
    "task": "chooses", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold", "target_delimiter": "", "metric_list": [{"metric": "acc"}],
}  # fmt: skip
WRITES = {
    "task": "writes", "output_type": "generate_until", "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match"}],
}  # fmt: skip
READS = {
    "task": "reads", "output_type": "loglikelihood_rolling", "doc_to_text": "",
    "doc_to_target": "{{asked}}", "metric_list": [{"metric": "word_perplexity"}],
}  # fmt: skip

tasks = [ConfigurableTask(config=COMMON | own) for own in (CHOOSES, WRITES, READS)]
for batch in (1, 4):
    found = simple_evaluate(
        model="local-completions",
        model_args={
            "model": "base",
            "base_url": f"{sys.argv[1]}/v1/completions",
            "tokenizer": sys.argv[2],
            "max_length": 64,
        },
        tasks=tasks,
        batch_size=batch,
        bootstrap_iters=0,
    )
    results = found["results"]
    assert 0 <= results["chooses"]["acc,none"] <= 1
    assert results["reads"]["word_perplexity,none"] > 1
    assert "exact_match,none" in results["writes"]
found = simple_evaluate(
    model="local-chat-completions",
    model_args={"model": "base", "base_url": f"{sys.argv[1]}/v1/chat/completions"},
    tasks=[ConfigurableTask(config=COMMON | WRITES)],
    bootstrap_iters=0,
    apply_chat_template=True,
)
assert "exact_match,none" in found["results"]["writes"]
print("done")
