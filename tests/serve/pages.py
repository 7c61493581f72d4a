"""What the application answers to GET, found by looking rather than from a list."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI


class _Fill(dict[str, str]):
    def __missing__(self, parameter: str) -> str:
        return "unknown"


def filled_paths(app: FastAPI, known: Mapping[str, str]) -> list[str]:
    """Paths of all that may be got, with what is `known` of their parameters by name, and
    "unknown" for the others."""
    return [path.format_map(_Fill(known)) for path in get_paths(app)]


def get_paths(app: FastAPI) -> list[str]:
    """Paths, with their parameters in braces, of all that may be got."""
    described = [path for path, item in app.openapi()["paths"].items() if "get" in item]
    others = [
        path
        for route in app.routes
        if (path := getattr(route, "path", None)) and "GET" in (getattr(route, "methods", ()) or ())
    ]
    return list(dict.fromkeys([*described, *others]))
