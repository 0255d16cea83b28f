"""Records of the datasets and tools in use (ZsRE, CounterFact, ROME, EasyEdit) in our own fields.

A record is recognised by the fields it must have. What its fields hold is not looked at here:
`edits` checks it, as it does that of records that are ours from the start.
"""

from collections.abc import Callable, Collection
from typing import Any

Record = dict[str, Any]


def native(raw: Record, fields: Collection[str]) -> Record | None:
    """A foreign record in our fields, of which it may hold some besides; None if it is not foreign.

    Args:
        raw: The record as it was read.
        fields: Those of an edit.

    Raises:
        ValueError: The record is foreign, but its parts are not where its kind has them.

    >>> native({"src": "Who wrote Emma?", "alt": "Ann"}, ["prompt", "source"])["prompt"]
    'Who wrote Emma?'
    """
    turn = next((turn for needs, turn in _FOREIGN if needs <= raw.keys()), None)
    return None if turn is None else turn(raw) | _ours(raw, fields)


def _first(value: Any) -> Any:
    """The first text of a text, of `{"str": text}`, or of lists of these."""
    while isinstance(value, list | dict):
        value = value.get("str") if isinstance(value, dict) else value[0] if value else None
    return value


def _many(value: Any) -> list[Any]:
    return [] if value in (None, "") else value if isinstance(value, list) else [value]


def _flat_locality(value: Any) -> list[Record]:
    """EasyEdit's `{"kind": [{"prompt", "ground_truth"}]}`, of any number of kinds.

    A kind may also be one such object, whose prompt may be a list with as many ground truths.
    """
    kinds = value.values() if isinstance(value, dict) and "prompt" not in value else _many(value)
    items = [item for kind in kinds for item in _many(kind)]
    if not all(isinstance(item, dict) for item in items):
        raise ValueError("locality holds an item that is no object")
    return [
        {"prompt": prompt, "target": _first(truth)}
        for item in items
        for prompt, truth in _paired(item.get("prompt"), item.get("ground_truth"))
    ]


def _paired(prompt: Any, truth: Any) -> list[tuple[Any, Any]]:
    if not isinstance(prompt, list):
        return [(prompt, truth)]
    truths = _many(truth)
    return [(one, truths[i] if i < len(truths) else None) for i, one in enumerate(prompt)]


def _zsre(raw: Record) -> Record:
    loc = [{"prompt": raw["loc"], "target": _first(raw.get("loc_ans"))}] if raw.get("loc") else []
    return {
        "prompt": raw["src"],
        "target": _first(raw["alt"]),
        "ground_truth": _first(raw.get("answers") or raw.get("ground_truth")),
        "rephrase": _many(raw.get("rephrase")),
        "locality": [*loc, *_flat_locality(raw.get("locality"))],
    }


def _counterfact(raw: Record) -> Record:
    rewrite = raw["requested_rewrite"]
    if isinstance(rewrite, list):
        raise ValueError(
            f"requested_rewrite is a list of {len(rewrite)}, expected one object: make each of its "
            "rewrites a record, which is understood as it is"
        )
    if not isinstance(rewrite, dict) or not {"prompt", "subject", "target_new"} <= rewrite.keys():
        raise ValueError("requested_rewrite lacks prompt, subject or target_new")
    return {
        "prompt": rewrite["prompt"],
        "target": _first(rewrite["target_new"]),
        "subject": rewrite["subject"],
        "ground_truth": _first(rewrite.get("target_true") or raw.get("ground_truth")),
        "rephrase": [*_many(raw.get("paraphrase_prompts")), *_many(raw.get("rephrase"))],
        "locality": _flat_locality(raw.get("locality")),
        # They share relation and old answer with the edit: the hard kind.
        "hard_negatives": _many(raw.get("neighborhood_prompts")),
    }


def _request(raw: Record) -> Record:
    """ROME's and EasyEdit's request; what only measures (portability) is left out."""
    return {
        "prompt": raw["prompt"],
        "target": _first(raw["target_new"]),
        "ground_truth": _first(raw.get("ground_truth") or raw.get("target_true")),
        "rephrase": [*_many(raw.get("rephrase_prompt")), *_many(raw.get("rephrase"))],
        "locality": _flat_locality(raw.get("locality")),
        # CounterFact in EasyEdit's fields: the hard kind.
        "hard_negatives": _many(raw.get("locality_prompt")),
    }


def _ours(raw: Record, fields: Collection[str]) -> Record:
    """The fields of our own that a foreign record has beside those of others."""
    names = raw.keys() & (set(fields) - _MADE)
    own = {name: raw[name] for name in names if raw[name] is not None}
    return {n: str(v) if n == "id" and isinstance(v, int) else v for n, v in own.items()}


# What is made of others' fields, whatever else they are called.
_MADE = frozenset({"prompt", "target", "ground_truth", "rephrase", "locality"})

# Recognised by the fields a record must have, most telling first.
_FOREIGN: tuple[tuple[frozenset[str], Callable[[Record], Record]], ...] = (
    (frozenset({"requested_rewrite"}), _counterfact),
    (frozenset({"src", "alt"}), _zsre),
    (frozenset({"prompt", "target_new"}), _request),
)
