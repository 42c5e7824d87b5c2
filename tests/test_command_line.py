"""The command line on machines as they are: their encodings, their homes, a package that lies elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from infovae.__main__ import main
from infovae.paths import PROJECT_ROOT
from infovae.refusals import ParameterError


def command_line(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "infovae", *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True)


@pytest.mark.parametrize(("encoding", "printed"), [("latin-1", r"\u2713 \u03bb é"), ("utf-8", "✓ λ é")])
def test_a_terminal_of_any_encoding_can_be_written_to(encoding: str, printed: str) -> None:
    """As Python itself does on stderr: what the encoding lacks is escaped, and the work is not lost."""
    code = "import click; from infovae.__main__ import main; main.callback(False); click.echo('✓ λ é')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).strip() == printed


@pytest.mark.parametrize("command", [("run", "latent_usage"), ("reproduce",), ("report",), ("verify",), ("data",)])
def test_a_package_that_lies_outside_its_repository_refuses_at_once(command: tuple[str, ...], tmp_path: Path) -> None:
    shutil.copytree(PROJECT_ROOT / "infovae", tmp_path / "infovae", ignore=shutil.ignore_patterns("__pycache__"))
    done = command_line(*command, cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1", PYTHONPATH="")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: notebooks and profiles lie beside the package") and str(tmp_path) in line
    assert [path.name for path in tmp_path.iterdir()] == ["infovae"]


def test_profile_without_the_experiment_is_refused() -> None:
    result = CliRunner().invoke(main, ["run", "log_likelihood", "--profile", "fashion"])
    assert result.exit_code and "profile 'fashion' has no" in result.output and "divergence_comparison" in result.output


def test_what_follows_from_a_profiles_data_set_is_left_to_follow_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def stop(name: str, parameters: dict[str, object], folder: Path) -> None:
        asked.append(parameters)
        raise ParameterError("stopped")

    monkeypatch.setattr("infovae.reproduce.run_experiment", stop)
    result = CliRunner().invoke(main, ["run", "semi_supervised", "--profile", "fashion", "-p", "dataset=digits"])
    assert "stopped" in result.output and "n_train" not in asked[0] and asked[0]["dataset"] == "digits"


def test_a_user_without_a_home_is_told_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    result = CliRunner().invoke(main, ["run", "latent_usage"])
    assert result.exit_code == 1
    assert result.output == "Error: this user has no home folder: set HOME to a folder that can be written\n"
