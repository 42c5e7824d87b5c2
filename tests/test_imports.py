"""Imports point one way, and importing the package costs nothing."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "infovae"
ORDER = (
    "refusals", "paths", "labels", "data", "config", "claims", "plotting", "model", "evaluation", "training", "runs",
    "trained", "experiments", "publishing", "reproduce", "__main__",
)  # fmt: skip
"""The folders and modules at the top of the package: each may import those before it."""


def imports(path: Path) -> set[str]:
    """Return the modules of this package that a file imports, anywhere in it: by their full names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import with the package's name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name in MODULES and name != "infovae"}


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
"""Every module by its name."""


def test_each_folder_imports_only_those_before_it() -> None:
    for module, path in MODULES.items():
        if module != "infovae":
            before = ORDER[: ORDER.index(module.split(".")[1]) + 1]
            later = {name for name in imports(path) if name.split(".")[1] not in before}
            assert not later, f"{module} imports {later}"


def test_no_modules_import_each_other_in_a_ring() -> None:
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}
    assert sum(map(len, graph.values())) > len(MODULES), "imports are not found"
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, infovae; print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=PACKAGE.parent, text=True)
    assert loaded.strip() == "[]"
