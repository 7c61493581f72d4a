"""This process as a driver of a Ray cluster that runs already, on one of its machines."""

# pyright: reportUnknownMemberType=false
# Ray's functions are untyped.

from __future__ import annotations

import logging
import socket
from collections.abc import Generator
from contextlib import contextmanager

from pipelines.errors import ConfigurationError

_CONNECT_S = 5.0


@contextmanager
def joined(address: str) -> Generator[None]:
    """Connected to the cluster at `address`, such as auto. Raises ConfigurationError."""
    import ray

    try:
        # Ray tries an address that nobody listens at for minutes, and then ends the process.
        host, _, port = address.rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host, int(port)), _CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--address: no Ray cluster at {address}: {error}") from error
    serve_logger = logging.getLogger("ray.serve")
    level = serve_logger.level
    serve_logger.setLevel(logging.WARNING)  # it tells of each handle
    try:
        yield
    finally:
        serve_logger.setLevel(level)
        ray.shutdown()
