"""Mathematics on tensors: losses, graphs, diffusion, neighbors, ranking. Nothing here knows a model or a file."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submodules=["diffusion", "graph", "losses", "neighbors", "topk"])
