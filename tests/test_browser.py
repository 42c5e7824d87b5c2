"""In a real browser: JupyterLab opens the first notebook, runs it, shows what it draws, and stops when told to."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
import pytest
from pages import CHROMIUM
from websocket import create_connection

from infovae.paths import PROJECT_ROOT
from infovae.publishing.notebooks import FIRST_NOTEBOOK

LAB = (
    "import sys, pathlib; from infovae.publishing import lab; lab.PROJECT_ROOT = pathlib.Path(sys.argv[1]); lab.start()"
)
CONFIG = {"LabApp": {"expose_app_in_browser": True}, "ServerApp": {"open_browser": False}}
BROWSER = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
KERNEL = "jupyterapp.shell.currentWidget.sessionContext.session.kernel"


def wait_for(found: Callable[[], Any], seconds: float = 300) -> Any:
    """Return what is found, once there is something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Evaluates JavaScript in JupyterLab, which has a copy of the first notebook open, of few steps on the digits."""
    notebook = nbformat.read(PROJECT_ROOT / f"notebooks/{FIRST_NOTEBOOK}.ipynb", as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "\ndataset, objectives, toy_steps, steps = 'digits', ['elbo', 'mmd'], 20, 20"
    nbformat.write(notebook, tmp_path / "01.ipynb")
    settings = tmp_path / "lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # every cell is in the page, not only those in sight
    (tmp_path / "jupyter_lab_config.json").write_text(json.dumps(CONFIG))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    own = {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT)}
    environment = {**os.environ, **own, "JUPYTER_TOKEN": "t", "JUPYTER_PORT": port, "INFOVAE_DEVICE": "cpu"}
    options = [f"--user-data-dir={tmp_path / 'chromium'}", "--remote-debugging-port=0", "--window-size=1400,1000"]
    url, devtools = f"http://127.0.0.1:{port}/lab/tree/01.ipynb?token=t", tmp_path / "chromium/DevToolsActivePort"
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("wb"))
        for command in ([sys.executable, "-c", LAB, str(tmp_path)], [*BROWSER, *options, url]):
            process = stack.enter_context(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            stack.callback(process.terminate)
            wait_for(lambda: f":{port}/lab" in (tmp_path / "log").read_text())  # JupyterLab serves
        number = wait_for(lambda: devtools.is_file() and devtools.read_text()).split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/json") as answer:
            target = next(each["webSocketDebuggerUrl"] for each in json.load(answer) if each["type"] == "page")
        tools = create_connection(target, 600, suppress_origin=True)
        stack.callback(tools.close)

        def evaluate(script: str) -> Any:
            given = {"expression": script, "awaitPromise": True, "returnByValue": True}
            tools.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": given}))
            return json.loads(tools.recv())["result"]["result"].get("value")

        wait_for(lambda: evaluate(KERNEL.replace(".", "?.").replace("jupyterapp", "window.jupyterapp") + "?.id"))
        yield evaluate


@pytest.mark.timeout(1800)
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_first_notebook_runs_in_jupyterlab_and_stops_when_it_is_told_to(
    page: Callable[[str], Any], tmp_path: Path
) -> None:
    kernel = json.loads(next(tmp_path.glob("kernel-*.json")).read_text(encoding="utf-8"))
    assert any("curve" in name for name in kernel), "what the kernel says is not encrypted"
    assert page("jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
    figures = "[...document.querySelectorAll('.jp-OutputArea img')].filter(each => each.naturalWidth > 300).length"
    wait_for(lambda: page(figures) == 5)
    assert page("document.querySelectorAll('.jp-OutputArea table').length") == 2
    assert page("document.querySelectorAll('mjx-container').length") > 20, "equations are not typeset"
    assert page("[...document.querySelectorAll('[data-mime-type*=stderr], mjx-merror')].map(e => e.textContent)") == []
    hours = "training.train(config.model_copy(update={'steps': 10**6}), images, cpu)"
    page(f'window.trained = {KERNEL}.requestExecute({{code: "{hours}"}}).done.then(it => it.content.ename); 0')
    wait_for(lambda: page(f"{KERNEL}.status") == "busy")
    time.sleep(2)
    start = time.monotonic()
    page("jupyterapp.commands.execute('notebook:interrupt-kernel')")
    assert page("window.trained") == "KeyboardInterrupt"
    assert time.monotonic() - start < 5  # seconds
    code = "len(images.train_images)"
    assert page(f"{KERNEL}.requestExecute({{code: '{code}'}}).done.then(it => it.content.status)") == "ok"
