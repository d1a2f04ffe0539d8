"""gtcrec: multi-modal recommendation with user-aware diffusion filtering and total correlation.

Names are imported when they are first used, so `import gtcrec` is cheap. `__init__.pyi` beside this file lists them.
"""

import lazy_loader as _lazy

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
