from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError

from serve.api.error_handlers import validation_problem


def wrong(param: str, type_: str) -> dict[str, Any]:
    return {"type": type_, "loc": ("query", param), "msg": type_, "input": "x"}


def test_each_parameter_is_told_once_in_the_order_of_the_first_mistakes():
    found = [wrong("a", "int_parsing"), wrong("b", "bool_parsing"), wrong("a", "another")]
    problem = validation_problem(RequestValidationError(found))
    assert problem.param == "a"
    assert problem.message == 'a: must be an integer, got "x"; b: must be true or false, got "x"'
