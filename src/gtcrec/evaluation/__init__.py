"""Metrics, protocol, comparison and statistics."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "evaluator": ["evaluate", "evaluate_scorer", "evaluate_split"],
        "comparison": ["PairedDifference", "compare", "compare_to_baseline"],
        "protocol": ["EvaluateConfig", "Protocol"],
        "statistics": ["bootstrap_interval", "holm", "paired_test"],
        "trec": ["evaluate_lists", "read_lists"],
    },
)
