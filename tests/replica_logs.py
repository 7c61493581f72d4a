"""What the replicas of an application write into their logs from some moment on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ray._private import worker

from tests.cluster import replica_processes


class ReplicaLogs:
    """From now on, of the replicas of `app` that run now, of `deployment` or of all."""

    def __init__(self, app: str, deployment: str = "") -> None:
        assert worker._global_node is not None
        session = Path(worker._global_node.get_logs_dir_path())
        pids = [process.pid for process in replica_processes(deployment, app=app)]
        assert pids, f"no replica of {app} runs"
        patterns = [f"serve/replica_{app}_{deployment}*.log"]
        # What asyncio, Ray and Python say of errors that nobody handles goes there.
        patterns += [f"worker-*-{pid}.{stream}" for pid in pids for stream in ("err", "out")]
        self._read = {
            path: path.stat().st_size for pattern in patterns for path in session.glob(pattern)
        }

    def lines(self) -> Iterator[str]:
        """All that has been written since."""
        for path, size in self._read.items():
            with path.open(errors="replace") as file:
                file.seek(size)
                yield from file
