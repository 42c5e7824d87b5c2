"""The command line: `python -m infovae --help`. Parses and refuses; the work is done by the modules it calls."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from types import FrameType

import click

from infovae.data.sources import dataset_name
from infovae.paths import PROJECT_ROOT, results_root
from infovae.refusals import ParameterError, shorten
from infovae.runs.cluster import STOPPED

POLITE_SECONDS = 6
"""How long clusters, kernels and staging folders have for their own end before this process is ended at once."""


def stop(number: int, frame: FrameType | None) -> None:
    """Interrupt on SIGINT or SIGTERM; if tidying up takes long, end without it: whatever is kept is whole on disk."""
    deadline = threading.Timer(POLITE_SECONDS, end_at_once, [number])
    deadline.daemon = True
    deadline.start()
    raise KeyboardInterrupt(number)


def end_at_once(number: int) -> None:
    """End this process and its workers; kernels end by themselves when it is gone."""
    for worker in multiprocessing.active_children():  # else each would say that it lost its scheduler
        worker.kill()
    say_stopped()
    os._exit(128 + number)


def say_stopped() -> None:
    """Say what an interrupted command leaves behind."""
    click.echo(f"\n{STOPPED}", err=True)


class Group(click.Group):
    """Commands whose mistakes end in one clear line and an exit status: 2 for bad input, 1 for work that failed."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; turn the errors that have a cure into one line."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        handled = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in handled}
        try:
            return super().invoke(ctx)
        except ParameterError as error:
            raise click.UsageError(str(error)) from error
        except (ValueError, RuntimeError, OSError) as error:
            if isinstance(error, click.exceptions.Exit | BrokenPipeError):
                raise
            logging.getLogger("infovae").debug("traceback", exc_info=True)
            ours = type(error).__module__.startswith("infovae.")  # whose messages are whole sentences
            raise click.ClickException(str(error) if ours else f"{type(error).__name__}: {error}") from error
        except KeyboardInterrupt as interrupt:
            say_stopped()
            sys.exit(128 + next(iter(interrupt.args), signal.SIGINT))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Say more of what is done.")
def main(verbose: bool) -> None:
    """Reproduce InfoVAE: Balancing Learning and Inference in Variational Autoencoders."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding gets \\u03bb for a lambda
    if not (PROJECT_ROOT / "notebooks").is_dir():
        where = "notebooks and profiles lie beside the package, in its repository"
        raise click.ClickException(f"{where}: clone it and run `make` there, not the copy in {PROJECT_ROOT}")
    if os.path.expanduser("~") == "~":
        raise click.ClickException("this user has no home folder: set HOME to a folder that can be written")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("infovae").setLevel(logging.DEBUG if verbose else logging.INFO)


PROFILE = click.option("--profile", default="quick", show_default=True, help="A file of notebooks/profiles.")


@main.command()
@click.argument("names", nargs=-1)
def data(names: tuple[str, ...]) -> None:
    """Fetch and verify data sets: NAMES, or mnist; of a path, check the images of your own that it holds."""
    names = tuple(dataset_name(name) for name in names or ("mnist",))
    from infovae.runs.sweep import load_data

    for name in names:
        images = load_data(name)
        click.echo(f"{name}: {len(images.train_images)} training images, from {images.source}")


@main.command()
@PROFILE
def reproduce(profile: str) -> None:
    """Train what is missing, execute every notebook, write results/PROFILE."""
    from infovae import reproduce as work

    work.load_profile(profile)  # refuse before anything heavy is imported
    folder = results_root() / profile
    problems = work.reproduce(profile, folder)
    click.echo(f"read {work.display(folder / 'index.html')}, or the executed notebooks beside it")
    if problems:
        raise click.ClickException("incomplete:\n" + "\n".join(problems))


@main.command()
@PROFILE
def train(profile: str) -> None:
    """Train a profile's runs, the most valuable ones first; publish nothing. For grids of many hours."""
    from infovae import reproduce as work

    work.load_profile(profile)
    if problems := work.train(profile):
        raise click.ClickException("incomplete:\n" + "\n".join(problems))


@main.command()
@click.argument("experiment")
@click.option("-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")
@click.option("--profile", default=None, help="Start from this profile's parameters instead of the defaults.")
def run(experiment: str, parameters: tuple[str, ...], profile: str | None) -> None:
    """Run one EXPERIMENT with new parameters, into results/custom/EXPERIMENT, in place of what was there."""
    from infovae import reproduce as work
    from infovae.experiments import MODULES, NOTEBOOKS, make_experiment

    if not experiment:
        raise ParameterError(f"name an experiment, such as EXPERIMENT=latent_usage; there are: {', '.join(MODULES)}")
    experiment = re.sub(r"^\d\d_", "", experiment)  # the name of its notebook
    if experiment in NOTEBOOKS and experiment not in MODULES:
        raise ParameterError(f"{experiment} is a notebook and no experiment: open it by `make lab`")
    values = work.parse_assignments(list(parameters))
    if profile:
        experiments = work.load_profile(profile)
        if experiment not in experiments:
            raise ParameterError(f"profile {profile!r} has no {shorten(experiment)}; it has: {', '.join(experiments)}")
        values = {**experiments[experiment].model_dump(mode="json", exclude_unset=True), **values}
    make_experiment(experiment, values)  # refuse before anything heavy is imported
    from infovae.publishing.tables import preview

    folder = results_root() / "custom" / experiment
    notebook, problems = work.run_experiment(experiment, values, folder)
    click.echo(preview(folder, shutil.get_terminal_size().columns))
    click.echo(f"read {work.display(notebook.with_suffix('.html'))}, or {work.display(notebook)}")
    if problems:
        raise click.ClickException("incomplete:\n" + "\n".join(problems))


@main.command()
@PROFILE
def verify(profile: str) -> None:
    """Train a profile again from an empty store and compare with the committed results/PROFILE."""
    from infovae import reproduce as work

    work.load_profile(profile)
    comparisons, problems = work.verify(profile)
    for comparison in comparisons:
        click.echo(comparison)
    different = [comparison for comparison in comparisons if comparison.outcome == "different"]
    click.echo(f"{len(comparisons) - len(different)} of {len(comparisons)} conditions agree")
    if problems or different:
        raise click.ClickException("\n".join([*problems, f"{len(different)} conditions differ"]))


@main.command()
@PROFILE
def report(profile: str) -> None:
    """Rebuild tables, claims and pages of results/PROFILE from its runs.csv files, without training."""
    from infovae import reproduce as work

    work.load_profile(profile)
    folder = results_root() / profile
    work.report(profile, folder)
    click.echo(work.display(folder / "index.html"))


@main.command()
def lab() -> None:
    """Open the notebooks in JupyterLab; what is saved there keeps its cells, not its outputs."""
    from infovae.publishing.lab import start

    start()


if __name__ == "__main__":
    main(prog_name="python -m infovae")
