"""What a user reads when a parameter is refused: its name, its value, what is allowed, the closest name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError


class ParameterError(ValueError):
    """A parameter that was refused; its message names the parameter, its value, what is allowed, the closest name."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in a notebook: the message, and no traceback through our code."""
        return [f"{type(self).__name__}: {self}"]


def flag(variable: str, default: bool = False) -> bool:
    """Return whether an environment variable is 1 and not 0; ParameterError for anything else that it may be set to."""
    text = os.environ.get(variable, "")
    if text not in ("", "0", "1"):
        raise ParameterError(f"{variable} must be 0 or 1, got {shorten(text)}")
    return text == "1" if text else default


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Turn a validation error into lines that name the parameter, its value, what is allowed and the closest name."""
    lines = []
    items = error.errors(include_url=False)
    refused_items = {item["loc"][:depth] for item in items for depth in range(len(item["loc"]))}
    for item in items:
        if item["type"] == "default_factory_not_called":
            continue  # a default that follows from what was refused
        if item["type"] == "too_short" and item["loc"] in refused_items:
            continue  # the list is short only because its items were refused
        where = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in item["loc"]) or model.__name__
        if item["type"] == "extra_forbidden":
            lines.append(unknown_name("parameter", str(item["loc"][-1]), model.model_fields))
        elif item["type"] == "value_error":
            lines.append(str(item["ctx"]["error"]))
        else:
            reason = item["msg"].lower().replace("tuple", "list")
            lines.append(f"parameter {where}: {reason}, got {shorten(item['input'])}{_hint(item, where)}")
    return "\n".join(dict.fromkeys(lines))


def _hint(item: Mapping[str, Any], where: str) -> str:
    """Say what was probably meant: a list of one value, or the closest of the names that are allowed."""
    given = str(item["input"]) if isinstance(item["input"], str | int | float) else ""
    if item["type"] == "tuple_type" and re.fullmatch(r"[\w.-]{1,30}", given):
        return f"; write {where}=[{given}]"
    names = re.findall("'([^']+)'", item["ctx"]["expected"]) if item["type"] == "literal_error" else []
    close = difflib.get_close_matches(given[:30], names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """Say that a name is unknown, which is closest to it, and which are valid."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {shorten(name)}{hint} (valid: {', '.join(names)})"


def shorten(value: Any) -> str:
    """Return a value as a message can show it: on one line, its middle left out where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep; a whole number of more digits than Python prints
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 200 else f"{text[:120]} ... {text[-60:]}"
