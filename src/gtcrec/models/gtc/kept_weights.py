"""The best weights that a part of a model had so far, beside those that are being trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["KeptWeights"]


class KeptWeights(nn.Module):
    """Copies of a part's trained weights as they were when they ranked held-out items best.

    They are saved with the model. Before the first `judge` there are none, and `swapped` changes nothing.
    """

    best: Tensor
    since: Tensor

    def __init__(self, part: nn.Module, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("best", torch.tensor(-torch.inf))
        self.register_buffer("since", torch.tensor(0))  # judgements without a better one
        for name, parameter in _trained(part):
            self.register_buffer(_key(name), torch.zeros_like(parameter))

    @property
    def is_final(self) -> bool:
        """Whether `patience` judgements found nothing better."""
        return int(self.since) >= self.patience

    def judge(self, part: nn.Module, value: float) -> None:
        """Keep the part's weights if `value`, the higher the better, is the best so far."""
        if value <= float(self.best):
            self.since += 1
            return
        self.best.fill_(value)
        self.since.zero_()
        for name, parameter in _trained(part):
            getattr(self, _key(name)).copy_(parameter.detach())

    @contextmanager
    def swapped(self, part: nn.Module) -> Iterator[None]:
        """Let the part have the kept weights for a while."""
        if float(self.best) == -torch.inf:
            yield
            return
        own = {name: parameter.data for name, parameter in _trained(part)}
        try:
            for name, parameter in _trained(part):
                parameter.data = getattr(self, _key(name))
            yield
        finally:
            for name, parameter in _trained(part):
                parameter.data = own[name]


def _trained(part: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in part.named_parameters() if parameter.requires_grad]


def _key(name: str) -> str:
    return name.replace(".", "/")  # a buffer's name has no dot
