"""InfoVAE (Zhao, Song, Ermon, AAAI 2019), replicated: its experiments, its claims and their verdicts.

`infovae.load` gives a trained model (see `infovae.trained.models`), `infovae.InfoVAE` is a transformer for scikit-learn
(see `infovae.trained.transformer`). Importing the package loads no library, so that the command line answers at once:
each of the two is imported when it is first asked for.

What decides a run is in `config`, the loop in `training`. The folders, each of which imports only those before it:
`data`, `claims`, `model`, `evaluation`, `runs`, `trained`, `experiments`, `publishing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infovae.trained.models import load as load
    from infovae.trained.transformer import InfoVAE as InfoVAE

__version__ = "0.1.0"

_HOMES = {"load": "infovae.trained.models", "InfoVAE": "infovae.trained.transformer"}


__all__ = [*_HOMES]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
