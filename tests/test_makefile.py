"""The front door: targets are explained, parameters reach the command line untouched, installing is all or nothing."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z][\w-]*):", MAKEFILE, flags=re.MULTILINE)

# Stands for the environment's python: one line per argument, then the variables that the command line reads.
STUB = """#!/bin/sh
printf '%s\\n' "$@" "INFOVAE_DEVICE=$INFOVAE_DEVICE" "INFOVAE_WORKERS=$INFOVAE_WORKERS"
"""
# Stands for the python3 that the user has: makes the environment, in which pip fails while the file `offline` exists.
PYTHON3 = """#!/bin/sh
[ "$1" = -c ] && exit 0
case "$*" in "-m venv --clear .venv" | "-m venv --clear .venv-bench") ;; *) exit 9 ;; esac
rm -rf "$4" && mkdir -p "$4/bin"
printf '#!/bin/sh\\necho "$@" >> pip.log; test ! -e offline\\n' > "$4/bin/python"
chmod +x "$4/bin/python"
"""
HOSTILE = [
    "lambdas=[10] seeds=[0]",
    "lambdas=[1, 10] objectives=[\"mmd\",'elbo'] train=false",
    "a=`touch harmed` b=$(touch harmed) c=$$(touch harmed)",
    "a=$(shell touch harmed) b=${HOME} c=$HOME",
    'a="; touch harmed; echo " & touch harmed | touch harmed',
    "a=' ; touch harmed ; '",
    "a=* b=~ c=\\ d=%s e=# f=[",
]


def make(folder: Path, *arguments: str, status: int = 0, **environment: str) -> str:
    """Run make in `folder`, check its exit status and return what it wrote."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "INFOVAE_"))}
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=folder,
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the files that make looks at and a python3 that installs nothing."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    write_script(tmp_path / "python3", PYTHON3)
    return tmp_path


@pytest.fixture
def installed(checkout: Path) -> Path:
    """A checkout whose environment is up to date and holds a python that prints its arguments."""
    write_script(checkout / ".venv/bin/python", STUB)
    (checkout / ".venv/installed").touch()
    return checkout


def test_help_is_the_default_and_explains_every_target(checkout: Path) -> None:
    text = make(checkout)
    assert text == make(checkout, "help")
    explained = re.findall(r"^  make ([\w-]+) +\S.{10,}$", text, flags=re.MULTILINE)
    assert explained == TARGETS
    assert max(map(len, text.splitlines())) <= 120


def test_every_target_is_phony() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)
    assert phony
    assert phony[1].split() == TARGETS


@pytest.mark.parametrize("params", HOSTILE)
@pytest.mark.parametrize("given", ["argument", "environment"])
def test_parameters_reach_the_command_line_untouched(installed: Path, params: str, given: str) -> None:
    if given == "argument":
        output = make(installed, "--silent", "run", "EXPERIMENT=latent_usage", f"PARAMS={params}")
    else:
        output = make(installed, "--silent", "run", EXPERIMENT="latent_usage", PARAMS=params)
    assert output.splitlines()[:6] == ["-m", "infovae", "run", "latent_usage", "-p", params]
    assert not (installed / "harmed").exists()


@pytest.mark.parametrize("variable", ["EXPERIMENT", "PROFILE", "DEVICE", "WORKERS"])
def test_no_variable_is_executed(installed: Path, variable: str) -> None:
    value = "$(shell touch harmed)`touch harmed`; touch harmed"
    target = "run" if variable == "EXPERIMENT" else "reproduce"
    assert value in make(installed, "--silent", target, f"{variable}={value}")
    assert not (installed / "harmed").exists()


def test_profile_device_and_workers(installed: Path) -> None:
    nothing = ["INFOVAE_DEVICE=", "INFOVAE_WORKERS="]
    for target in ("reproduce", "report"):
        command = ["-m", "infovae", target, "--profile"]
        assert make(installed, "--silent", target).splitlines() == [*command, "quick", *nothing]
        assert make(installed, "--silent", target, "PROFILE=laptop").splitlines() == [*command, "laptop", *nothing]
    given = ["INFOVAE_DEVICE=cuda:1", "INFOVAE_WORKERS=4"]
    assert make(installed, "--silent", "data", "DEVICE=cuda:1", "WORKERS=4").splitlines()[-2:] == given
    assert make(installed, "--silent", "data", INFOVAE_DEVICE="cuda:1", INFOVAE_WORKERS="4").splitlines()[-2:] == given


def test_every_command_called_exists() -> None:
    if not (ROOT / "infovae/__main__.py").exists():
        pytest.skip("there is no command line yet")
    text = subprocess.check_output([sys.executable, "-m", "infovae", "--help"], cwd=ROOT, text=True)
    for command in re.findall(r"(?:\$\(RUN\)|-m infovae) (\w+)", MAKEFILE):
        assert re.search(rf"^  {command}\b", text, flags=re.MULTILINE), command


def test_installs_once_and_again_when_the_pins_change(checkout: Path) -> None:
    log = checkout / "pip.log"
    make(checkout, "install", "PYTHON=./python3")
    assert re.fullmatch(r"-m pip install .*-c constraints\.txt -e \.\[dev\]\n", log.read_text())
    make(checkout, "install", "PYTHON=./python3")
    assert len(log.read_text().splitlines()) == 1
    stamp = (checkout / ".venv/installed").stat().st_mtime
    os.utime(checkout / "constraints.txt", (stamp + 1, stamp + 1))
    make(checkout, "install", "PYTHON=./python3")
    assert len(log.read_text().splitlines()) == 2


def test_peers_are_installed_in_an_environment_of_their_own(checkout: Path) -> None:
    make(checkout, "bench", "PYTHON=./python3")
    install, command = (checkout / "pip.log").read_text().splitlines()
    assert re.fullmatch(r"-m pip install .*-c constraints\.txt -e \.\[bench\]", install)
    assert command == "-m bench"
    assert (checkout / ".venv-bench/installed").exists()
    assert not (checkout / ".venv").exists()


def test_an_interrupted_install_is_done_again_from_the_beginning(checkout: Path) -> None:
    (checkout / "offline").touch()
    make(checkout, "install", "PYTHON=./python3", status=2)
    (checkout / ".venv/half").touch()
    make(checkout, "install", "PYTHON=./python3", status=2)
    assert not (checkout / ".venv/half").exists()
    (checkout / "offline").unlink()
    make(checkout, "install", "PYTHON=./python3")
    assert len((checkout / "pip.log").read_text().splitlines()) == 3


def test_an_old_python_is_refused_before_anything_is_made(checkout: Path) -> None:
    pretend = "import sys; sys.version_info = (3, 10, 4); sys.version = '3.10.4 (main)'; exec(sys.argv[1])"
    write_script(checkout / "python3.10", f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    output = make(checkout, "reproduce", "PYTHON=./python3.10", status=2)
    assert "Python 3.11 or newer is needed; ./python3.10 is 3.10.4. Name a newer one: make PYTHON=" in output
    assert not (checkout / ".venv").exists()
