"""A trained model over HTTP: the application, its events, and what changes while it runs. Needs the extra `serve`."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "app": ["create_app"],
        "config": ["ServerConfig"],
        "events": ["Event", "EventLog"],
        "live": ["LiveRun", "LoadedRun"],
    },
)
