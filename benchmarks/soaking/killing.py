"""SIGKILL, for parts of a server and for all of it."""

from __future__ import annotations

import contextlib
import random
from typing import Literal

import psutil

from serve.demo.child_server import ChildServer

Victim = Literal["Denoiser", "Ingress", "application"]

VICTIMS: tuple[Victim, ...] = ("Denoiser", "Ingress", "application")


def kill(server: ChildServer, victim: Victim, randomness: random.Random) -> None:
    """Kill one replica of a deployment, or with "application" every process of the server."""
    processes = server.processes()
    if victim == "application":
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)
        return
    if replicas := [each for each in processes if _is_replica(each, victim)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            randomness.choice(replicas).kill()


def _is_replica(process: psutil.Process, deployment: str) -> bool:
    try:
        title = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return title.startswith("ray::ServeReplica:") and f":{deployment}" in title


class Resources(dict[str, tuple[int, int]]):
    """By role of a process: resident bytes and open descriptors, summed over its processes."""

    @classmethod
    def of(cls, server: ChildServer) -> Resources:
        found = cls()
        for process in server.processes():
            try:
                role = _role(process)
                rss, files = process.memory_info().rss, process.num_fds()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            before = found.get(role, (0, 0))
            found[role] = (before[0] + rss, before[1] + files)
        return found

    @property
    def rss(self) -> int:
        """Bytes of all."""
        return sum(rss for rss, _ in self.values())


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    title = words[0] if words else process.name()
    if title.startswith("ray::ServeReplica:"):
        return title.split(":")[4].split("#")[0].split(".")[0]
    return title.split("/")[-1].removeprefix("ray::").split(".")[0][:24]
