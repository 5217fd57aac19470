"""How the contract tests write down an answer: an object is a dict in the order of its keys, a key with "?" at its end
may be missing; a list of one shape is a list of it; and a function says whether a value is of its type."""

import re
from collections.abc import Callable
from typing import Any

Is = Callable[[Any], bool]


def _is_text(pattern: str) -> Is:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def text(value: Any) -> bool:
    return isinstance(value, str)


def integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def boolean(value: Any) -> bool:
    return isinstance(value, bool)


def null(value: Any) -> bool:
    return value is None


def anything(value: Any) -> bool:
    return True


snowflake = _is_text("[1-9][0-9]{0,18}")
moment = _is_text("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
uuid = _is_text("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
source = _is_text("database|cache")


def matching(pattern: str) -> Is:
    return _is_text(pattern)


def within(low: int, high: int) -> Is:
    return lambda value: integer(value) and low <= value <= high


def or_null(shape: Any) -> Is:
    return lambda value: value is None or not differences(value, shape)


def one_of(*values: Any) -> Is:
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def mapping(shape: Any) -> Is:
    """An object of any keys, each with a value of the shape."""
    return lambda value: isinstance(value, dict) and not any(differences(one, shape) for one in value.values())


def differences(value: Any, shape: Any, at: str = "$") -> list[str]:
    """Where the value is not what the shape says: order of keys, keys, types, formats."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{at} is {value!r}, not an object"]
        wanted = [key.rstrip("?") for key in shape if not key.endswith("?") or key[:-1] in value]
        if list(value) != wanted:
            return [f"{at} has the keys {list(value)}, not {wanted}"]
        by_name = {key.rstrip("?"): one for key, one in shape.items()}
        return [found for key in value for found in differences(value[key], by_name[key], f"{at}.{key}")]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{at} is {value!r}, not a list"]
        return [found for i, one in enumerate(value) for found in differences(one, shape[0], f"{at}[{i}]")]
    if callable(shape):
        return [] if shape(value) else [f"{at} is {value!r}"]
    return [] if type(value) is type(shape) and value == shape else [f"{at} is {value!r}, not {shape!r}"]
