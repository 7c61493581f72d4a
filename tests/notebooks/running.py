"""Runs a notebook in a kernel of its own, and ends whatever that leaves behind."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

from tests.cluster import ENVIRONMENT, PATIENCE_S

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"

_MARK = "SLUICETEST"


class Notebook:
    """One notebook, read from its file; `run` fills in the outputs, in memory alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = nbformat.read(path, as_version=4)
        self._id = uuid.uuid4().hex

    def change(self, before: str, after: str) -> None:
        """Let a line of its code be another one."""
        (cell,) = (cell for cell in self.content.cells if before in cell.source.splitlines())
        cell.source = cell.source.replace(before, after)

    def run(self, scratch: Path) -> None:
        """Execute all cells, as Jupyter would, in the notebook's folder.

        Raises nbclient's CellExecutionError for an exception in a cell. What IPython keeps goes
        to `scratch`.
        """
        environment = {
            **os.environ,
            **ENVIRONMENT,
            "IPYTHONDIR": str(scratch / "ipython"),
            _MARK: self._id,
        }
        client = NotebookClient(
            self.content,
            timeout=PATIENCE_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(self.path.parent)}},
        )
        client.execute(env=environment)

    def texts(self) -> str:
        """All that was printed, warnings included."""
        return "".join(
            output["text"] for output in self._outputs() if output["output_type"] == "stream"
        )

    def pictures(self) -> int:
        """How many pictures the outputs hold."""
        return sum("image/png" in output.get("data", {}) for output in self._outputs())

    def survivors(self) -> list[psutil.Process]:
        """Processes that were started by its kernel, at whatever remove, and still run."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._id:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def _outputs(self) -> list[nbformat.NotebookNode]:
        return [output for cell in self.content.cells for output in cell.get("outputs", [])]
