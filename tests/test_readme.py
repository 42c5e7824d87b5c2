"""What the README shows is what is committed, what it links to is there, what it tells to type works."""

import re

import pytest

from infovae.experiments import MODULES, make_experiment
from infovae.paths import PROJECT_ROOT
from infovae.reproduce import parse_assignments, profile_names

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")


def test_what_it_quotes_stands_in_the_report() -> None:
    quoted = re.findall("^> (.+)$", README, re.M)
    assert quoted
    reports = [(PROJECT_ROOT / f"results/{name}/report.md").read_text(encoding="utf-8") for name in ("quick", "laptop")]
    assert [text for text in quoted if not any(text in report for report in reports)] == []


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) >= 3
    missing = [path for path in links if not (PROJECT_ROOT / path).exists()]
    assert not missing


def test_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    typed = re.findall(r"^    make ([a-z]+)", README, re.M) + re.findall(r"`make ([a-z]+)", README)
    assert {"reproduce", "test", "run"} <= set(typed) <= targets
    for name, parameters in re.findall(r'make run EXPERIMENT=(\w+) PARAMS="([^"]+)"', README):
        make_experiment(name, parse_assignments([parameters]))


@pytest.mark.parametrize("name", [*MODULES, *profile_names()])
def test_every_experiment_and_profile_has_its_row(name: str) -> None:
    assert re.search(rf"^\| `(\d\d_)?{name}` \|", README, re.M)
