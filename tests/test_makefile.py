"""The front door: targets are explained, parameters reach the command line untouched, installing is all or nothing."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z][\w-]*):", MAKEFILE, flags=re.MULTILINE)

# Stands for the environment's programs: pip is logged, and fails while the file `offline` exists; a command prints one
# line per argument, then the variables that the command line reads, or waits for its end while the file `wait` exists.
STUB = """#!/bin/sh
case "$1$2" in
-c*) echo "of $(cat version 2>/dev/null)"; exit ;;
-mpip) echo "$@" >> pip.log; test ! -e offline; exit ;;
check* | format* | "") exit ;;
esac
[ -e wait ] && { trap 'touch ended; exit' TERM; touch started; while :; do sleep 0.1; done }
printf '%s\\n' "$@" "INFOVAE_DEVICE=$INFOVAE_DEVICE" "INFOVAE_WORKERS=$INFOVAE_WORKERS"
"""
# Stands for the python3 that the user has: makes the environment.
PYTHON3 = """#!/bin/sh
[ "$1" = -c ] && exit 0
case "$*" in "-m venv --clear .venv" | "-m venv --clear .venv-bench") ;; *) exit 9 ;; esac
rm -rf "$4" && mkdir -p "$4/bin" && for name in python pytest ruff mypy; do cp stub "$4/bin/$name"; done
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
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    write_script(folder / "python3", PYTHON3)
    write_script(folder / "stub", STUB)
    return folder


@pytest.fixture
def installed(checkout: Path) -> Path:
    """A checkout whose environment is up to date."""
    install(checkout)
    return checkout


def install(folder: Path, status: int = 0, **environment: str) -> int:
    """Run `make install` and return how often pip was called so far."""
    make(folder, "install", "PYTHON=./python3", status=status, **environment)
    return len((folder / "pip.log").read_text().splitlines())


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
    text = subprocess.check_output([sys.executable, "-m", "infovae", "--help"], cwd=ROOT, text=True)
    for command in re.findall(r"(?:\$\(RUN\)|-m infovae) (\w+)", MAKEFILE):
        assert re.search(rf"^  {command}\b", text, flags=re.MULTILINE), command


def test_installs_once(checkout: Path) -> None:
    assert install(checkout) == 1
    log = (checkout / "pip.log").read_text()
    assert re.fullmatch(r"-m pip install .*--no-user .*-c constraints\.txt -e \.\[dev\]\n", log)
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(checkout / name, (2**31, 2**31))  # far in the future
    assert install(checkout) == 1


@pytest.mark.parametrize("change", ["pins", "folder", "interpreter gone", "interpreter replaced"])
def test_installs_again_when_what_the_environment_was_made_with_has_changed(installed: Path, change: str) -> None:
    if change == "pins":
        pins = installed / "constraints.txt"
        times = pins.stat().st_atime, pins.stat().st_mtime
        pins.write_text(pins.read_text() + "# changed")
        os.utime(pins, times)
    elif change == "folder":
        installed = installed.rename(installed.with_name("moved"))
    elif change == "interpreter gone":
        (installed / ".venv/bin/python").unlink()
        (installed / ".venv/bin/python").symlink_to("/nowhere/python3")
    else:
        (installed / "version").write_text("3.12")
    assert install(installed) == 2
    assert install(installed) == 2


def test_an_environment_that_is_a_link_is_used_as_it_is(installed: Path, tmp_path: Path) -> None:
    (installed / ".venv").rename(tmp_path / "elsewhere")
    (installed / ".venv").symlink_to(tmp_path / "elsewhere")
    (installed / "constraints.txt").write_text("")
    assert install(installed) == 1
    assert (tmp_path / "elsewhere/bin/python").exists()


def test_the_users_python_and_pip_settings_stay_out(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_script(checkout / "stub", "#!/bin/sh\nenv >> pip.log\n")
    theirs = ["PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV"]
    for name in theirs:
        monkeypatch.setenv(name, "1")
    make(checkout, "data", "PYTHON=./python3", PIP_INDEX_URL="theirs")
    seen = (checkout / "pip.log").read_text()
    assert not [name for name in theirs if f"{name}=" in seen]
    assert "PIP_INDEX_URL=theirs" in seen


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in ("help", "install", "lint", "clean")])
def test_a_signal_to_make_reaches_the_command(installed: Path, target: str) -> None:
    (installed / "wait").touch()
    command = ["make", target, "PYTHON=./python3", "EXPERIMENT=latent_usage"]
    process = subprocess.Popen(command, cwd=installed, start_new_session=True)
    try:
        for name in ("started", "ended"):
            deadline = time.monotonic() + 20
            while not (installed / name).exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.terminate()
        assert process.wait(10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_peers_are_installed_in_an_environment_of_their_own(checkout: Path) -> None:
    output = make(checkout, "--silent", "bench", "PYTHON=./python3")
    log = (checkout / "pip.log").read_text()
    assert re.fullmatch(r"-m pip install .*-c constraints\.txt -e \.\[bench\]\n", log)
    assert "-m\nbench\n" in output
    assert (checkout / ".venv-bench/installed").exists()
    assert not (checkout / ".venv").exists()


def test_an_interrupted_install_is_done_again_from_the_beginning(checkout: Path) -> None:
    (checkout / "offline").touch()
    install(checkout, status=2)
    (checkout / ".venv/half").touch()
    install(checkout, status=2)
    assert not (checkout / ".venv/half").exists()
    (checkout / "offline").unlink()
    assert install(checkout) == 3


def test_an_old_python_is_refused_before_anything_is_made(checkout: Path) -> None:
    pretend = "import sys; sys.version_info = (3, 10, 4); sys.version = '3.10.4 (main)'; exec(sys.argv[1])"
    write_script(checkout / "python3.10", f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    output = make(checkout, "reproduce", "PYTHON=./python3.10", status=2)
    assert "Python 3.11 or newer is needed; ./python3.10 is 3.10.4. Name a newer one: make PYTHON=" in output
    assert not (checkout / ".venv").exists()
