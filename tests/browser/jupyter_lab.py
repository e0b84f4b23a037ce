"""A real JupyterLab in headless Chromium: start the server, open notebooks, run their cells, look at what is shown."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, Page, sync_playwright
from waiting import free_port

TOKEN = "browser-tests"
WAIT_MS = 45_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["background-networking", "component-update", "sync", "gpu", "quic"]
ARGUMENTS = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in QUIET)]
READY = """() => { const w = window.jupyterapp?.shell.currentWidget, k = w?.sessionContext?.session?.kernel;
  return k && k.connectionStatus === 'connected' && k.status === 'idle'; }"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def server(command: list[str], url: str, log: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a web server of Jupyter's until the block ends; it and its kernels are ended."""
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(url, timeout=2).close()
                break
            except urllib.error.HTTPError:
                break  # it answers, if not to this question
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{command[0]} does not answer:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


def environment(root: Path, theme: str = "JupyterLab Light") -> dict[str, str]:
    """Return the environment of a server whose settings are all in a folder of its own; it asks nobody for news."""
    folder = root / "settings" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True)
    (folder / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (folder / "themes.jupyterlab-settings").write_text(f'{{"theme": "{theme}"}}')
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
    }
    paths = {k: str(root / v) for k, v in own.items()}
    return {**os.environ, **paths, "PYTHONPATH": str(Path(__file__).parent), "OPHYD_CONTROL_LAYER": "dummy"}


def write_notebook(path: Path, cells: list[str]) -> None:
    """Write a notebook of code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


class Lab:
    """A running JupyterLab and a browser that looks at it."""

    def __init__(self, root: Path, port: int, browser: Browser) -> None:
        self.root, self.browser, self.url = root, browser, f"http://127.0.0.1:{port}"

    def page(self, name: str, width: int = 1280, height: int = 1000, **context: Any) -> Page:
        """Open a notebook that exists, wait for its kernel, and return the page; nothing is run."""
        page = self.browser.new_page(viewport={"width": width, "height": height}, **context)
        page.goto(f"{self.url}/lab/tree/{name}.ipynb?token={TOKEN}&reset", wait_until="domcontentloaded")
        self.ready(page)
        return page

    @staticmethod
    def ready(page: Page) -> None:
        page.wait_for_selector(".jp-Notebook", timeout=60_000)
        page.wait_for_function(READY, timeout=60_000)

    @staticmethod
    def command(page: Page, name: str, arguments: str = "{}") -> None:
        """Begin a command of JupyterLab's; it is not waited for."""
        page.evaluate(f"() => {{ window.jupyterapp.commands.execute('{name}', {arguments}); }}")

    @contextlib.contextmanager
    def notebook(self, name: str, cells: list[str], **page_options: Any) -> Iterator[Page]:
        """Write a notebook, open it, run all of it, and give the page; its kernel ends with the block."""
        write_notebook(self.root / f"{name}.ipynb", cells)
        page = self.page(name, **page_options)
        try:
            self.command(page, "notebook:run-all-cells")
            yield page
        finally:
            page.evaluate("() => window.jupyterapp.shell.currentWidget?.sessionContext?.shutdown()")
            page.close()


@contextlib.contextmanager
def lab(root: Path, theme: str = "JupyterLab Light") -> Iterator[Lab]:
    """Start JupyterLab on the loopback, with notebooks in `root`, and a browser."""
    port = free_port()
    options = {
        "ip": "127.0.0.1",
        "port": port,
        "ServerApp.root_dir": root,
        "ServerApp.port_retries": 0,
        "IdentityProvider.token": TOKEN,
        "LabApp.expose_app_in_browser": True,
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{key}={value}" for key, value in options.items()]
    with (
        server(
            command, f"http://127.0.0.1:{port}/api/status?token={TOKEN}", root / "lab.log", environment(root, theme)
        ),
        chromium() as browser,
    ):
        yield Lab(root, port, browser)
