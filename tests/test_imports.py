"""Imports point one way, and importing the package costs nothing."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "infovae"
LAYERS = [
    ["labels", "intervals", "authors", "refusals"],
    ["plotting"],
    [
        "parsers",
        "sources",
        "config",
        "data",
        "networks",
        "pixelcnn",
        "gated_pixelcnn",
        "quadrature",
        "scalar",
        "model",
        "divergences",
        "adversarial",
    ],
    ["objective"],
    ["training", "evaluation"],
    ["checkpoint"],
    ["store", "worker"],
    ["selection"],
    ["models"],
    ["transformer", "explore"],
    ["cluster"],
    ["sweep"],
    ["verdicts"],
    ["experiments"],
    ["tables", "claims", "site", "report", "findings", "verify"],
    ["notebooks", "lab"],
    ["reproduce"],
    ["__main__"],
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}


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


def test_imports_point_one_way() -> None:
    graph: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if module != "__init__":
            assert module in RANK, f"{module} has no place in LAYERS"
            graph.setdefault(module, set()).update(imports(path) - {module})
    upwards = [f"{a} imports {b}" for a, names in graph.items() for b in names if RANK[b] > RANK[a]]
    assert not upwards
    TopologicalSorter(graph).prepare()  # raises CycleError where modules of one layer import each other in a ring


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, infovae; print(sorted({'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=PACKAGE.parent, text=True)
    assert loaded.strip() == "[]"
