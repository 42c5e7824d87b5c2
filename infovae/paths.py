"""Where the project lies, and the folders that it reads and writes."""

from __future__ import annotations

import os
from pathlib import Path

from infovae.refusals import ParameterError

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def project_path(variable: str, default: str) -> Path:
    """Return the folder that an environment variable names (`~` is the user's home), else `default` in the project.

    Raises
    ------
    ParameterError
        Without the variable, where the package does not lie in its repository: nothing is kept beside a copy of it.
    """
    named = os.environ.get(variable)
    if not named and not (PROJECT_ROOT / "notebooks").is_dir():
        raise ParameterError(f"the package lies outside its repository: set {variable} to a folder")
    return Path(os.path.abspath(os.path.expanduser(named or PROJECT_ROOT / default)))


def results_root() -> Path:
    """Return the folder of all results: INFOVAE_RESULTS, else `results` beside the package."""
    return project_path("INFOVAE_RESULTS", "results")
