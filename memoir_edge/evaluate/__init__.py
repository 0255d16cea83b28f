"""Evaluation of an edited model: what to ask, how to score it, how to show it."""

from memoir_edge.evaluate.metrics import Report, evaluate, hard_negatives, prompt_count

__all__ = ["Report", "evaluate", "hard_negatives", "prompt_count"]
