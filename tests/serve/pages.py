"""What the application answers to GET, found by looking rather than from a list."""

from __future__ import annotations

from fastapi import FastAPI


def get_paths(app: FastAPI) -> list[str]:
    """Paths, with their parameters in braces, of all that may be got."""
    described = [path for path, item in app.openapi()["paths"].items() if "get" in item]
    others = [
        path
        for route in app.routes
        if (path := getattr(route, "path", None)) and "GET" in (getattr(route, "methods", ()) or ())
    ]
    return list(dict.fromkeys([*described, *others]))
