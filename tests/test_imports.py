"""Imports point one way, and importing the package costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "infovae"
ORDER = (
    "refusals", "labels", "data", "config", "claims", "plotting", "model", "evaluation", "training", "runs", "trained",
    "experiments", "publishing", "reproduce", "__main__",
)  # fmt: skip
"""The folders and modules at the top of the package: each may import those before it."""


def imports(path: Path) -> set[str]:
    """Return the top-level modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import with the package's name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    names = [name.split(".") for name in found]
    return {parts[1] for parts in names if parts[0] == "infovae" and len(parts) > 1} - {"__version__"}


def test_each_folder_imports_only_those_before_it() -> None:
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if place != "__init__":
            before = ORDER[: ORDER.index(place) + 1]
            assert imports(path) <= set(before), f"{path} imports {imports(path) - set(before)}"


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, infovae; print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=PACKAGE.parent, text=True)
    assert loaded.strip() == "[]"
