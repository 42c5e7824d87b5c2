"""JupyterLab on the project: opens the first notebook, and keeps outputs out of the files of the source notebooks.

What is to be kept with its outputs is saved under another name elsewhere, such as in `results/custom`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from infovae.paths import PROJECT_ROOT
from infovae.publishing.notebooks import FIRST_NOTEBOOK, SOURCE, folder_variables


def start() -> None:
    """Become JupyterLab; its kernels find the folders that environment variables name from here, and our own Python."""
    os.environ.update({**folder_variables(), "JUPYTER_PATH": "", "JUPYTER_PREFER_ENV_PATH": "1"})
    os.execv(sys.executable, command())


def command() -> list[str]:
    """Return the command line of JupyterLab, rooted at the project."""
    options = {
        "ServerApp.root_dir": str(PROJECT_ROOT),
        "LabApp.default_url": f"/lab/tree/{SOURCE.name}/{FIRST_NOTEBOOK}.ipynb",
        "ContentsManager.pre_save_hook": "infovae.publishing.lab.strip_outputs",
        "KernelManager.transport_encryption": "auto",  # other users of the machine cannot read along
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "jupyterlab", *given, *(["--allow-root"] if os.geteuid() == 0 else [])]


def strip_outputs(model: dict[str, Any], path: str, **_: Any) -> None:
    """Take outputs, and all that running a notebook changes, out of a source notebook that is about to be saved."""
    import nbformat

    source = PROJECT_ROOT / path.lstrip("/")
    if model["type"] != "notebook" or source.parent != SOURCE:
        return
    for cell in model["content"]["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key not in _OF_A_RUN}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    if source.is_file():  # JupyterLab notes there which Python ran it
        model["content"]["metadata"] = nbformat.read(source, as_version=4).metadata


_OF_A_RUN = {"execution", "collapsed", "scrolled", "jupyter"}
"""Of a cell's metadata: times, and what is folded."""
