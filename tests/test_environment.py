"""What is declared, what is pinned and what is installed agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distributions, packages_distributions, requires, version
from importlib.util import find_spec
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import infovae

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
# Installed by `make bench` alone, in an environment of its own.
PEERS = [Requirement(text) for text in PROJECT["optional-dependencies"]["bench"]]
PIN_LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in PIN_LINES)}
# What torch brings for an accelerator, bound by torch itself.
ACCELERATOR = re.compile(r"^(nvidia|cuda|triton)(-|$)")


def test_every_constraint_is_one_exact_release() -> None:
    malformed = [line for line in PIN_LINES if not re.fullmatch(r"[\w.-]+==[0-9][0-9a-z.]*", line)]
    assert not malformed, "a local version such as +cpu exists on one kind of machine only"
    assert not [name for name in PINS if ACCELERATOR.match(name)]
    assert list(PINS) == sorted(PINS)
    assert len(PINS) == len(PIN_LINES)


def test_every_direct_dependency_is_bounded_and_pinned_within_its_bound() -> None:
    for requirement in DIRECT + PEERS:
        assert [bound.operator for bound in requirement.specifier] == [">="], requirement
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} has no line in constraints.txt"
        assert requirement.specifier.contains(pin), f"{requirement} excludes its own pin {pin}"


def test_everything_installed_for_the_project_is_what_the_constraints_say() -> None:
    peers = [peer for peer in PEERS if find_spec(peer.name)]  # in .venv-bench they are held to the pins too
    todo, installed = [(requirement.name, "") for requirement in DIRECT + peers], {}
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        try:
            needs = [Requirement(text) for text in requires(name) or []]
            installed[canonicalize_name(name)] = version(name).partition("+")[0]
        except PackageNotFoundError:
            raise AssertionError(f"{name} is needed and not installed: make install") from None
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                new = {(need.name, wanted) for wanted in ("", *need.extras)} - seen
                seen |= new
                todo += new
    ours = {name: found for name, found in installed.items() if not ACCELERATOR.match(name)}
    unlike = {name: f"{found} instead of {PINS.get(name)}" for name, found in ours.items() if found != PINS.get(name)}
    assert not unlike, "make install brings the pinned releases"


def test_every_pin_runs_on_the_oldest_python_that_is_declared() -> None:
    """Debian 12 has 3.11.2: a pin that asks for 3.11.5 cannot be installed there."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    refused = {}
    for distribution in distributions():
        declared = distribution.metadata
        needed = next(iter(declared.get_all("Requires-Python") or []), "")  # some declare none: any Python will do
        name = canonicalize_name(declared["Name"])
        if name in PINS and not SpecifierSet(needed).contains(oldest):
            refused[name] = needed
    assert not refused
    assert len(PINS) > 100 and SpecifierSet(">=3.11").contains(oldest)


def test_conda_environment_installs_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = environment["dependencies"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert pip == "pip"
    assert packages == {"pip": ["-c constraints.txt", "-e .[dev]"]}, "versions belong in constraints.txt alone"


def test_every_library_imported_is_declared() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in DIRECT}
    peers = {canonicalize_name(requirement.name) for requirement in PEERS}
    distributions = packages_distributions()
    known = {"bench", "infovae", *sys.stdlib_module_names, *(path.stem for path in ROOT.glob("tests/*.py"))}
    for path in [path for folder in ("bench", "infovae", "tests") for path in ROOT.glob(f"{folder}/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for library in {name.partition(".")[0] for name in names} - known:
                if path.match("bench/peers.py") and library in peers:
                    continue
                providers = {canonicalize_name(provider) for provider in distributions.get(library, [])}
                assert providers & declared, f"{path.name} imports {library}, which pyproject.toml does not declare"


def test_every_folder_is_found_for_installation() -> None:
    """Setuptools takes each folder that the pattern names and that is a package."""
    assert PYPROJECT["tool"]["setuptools"]["packages"]["find"] == {"include": ["infovae*"]}
    folders = {path.parent for path in ROOT.glob("infovae/**/*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == infovae.__version__
