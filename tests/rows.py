"""Tables of runs as tests make them up."""

from typing import Any

import pandas as pd

from infovae.config import RunConfig


def runs_of(*choices: dict[str, Any], **metrics: Any) -> pd.DataFrame:
    """Return finished runs of some configurations, with what was measured of each."""
    rows = []
    for choice in choices:
        measured = {name: choice.pop(name) for name in list(choice) if name not in RunConfig.model_fields}
        config = RunConfig(**choice).model_dump(mode="json")
        rows.append({"run_id": str(sorted(config.items())), "status": "done", **config, **metrics, **measured})
    return pd.DataFrame(rows)
