"""Where the project lies, the folders that it reads and writes, and how a file is written."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from infovae.refusals import ParameterError

PROJECT_ROOT = Path(__file__).resolve().parent.parent


PART = ".*." + 8 * "[0-9a-f]"
"""Names of files that `write_atomically` has not written to their end; a killed process may leave one."""


class WriteError(RuntimeError):
    """A file or a folder cannot be written; the message says which, why and what to do."""


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


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, never a part, whenever the writer is killed.

    Raises
    ------
    WriteError
        When the folder cannot be written, for instance on a full disk; the old file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # its mode is what the user's umask says
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}"
        raise WriteError(
            f"{reason}. What is finished is kept; free the disk, or name another folder by INFOVAE_STORE, "
            "INFOVAE_RESULTS or INFOVAE_CACHE, then run again"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # its folder is none
            temporary.unlink(missing_ok=True)
