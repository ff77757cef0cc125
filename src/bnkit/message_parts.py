"""Parts of messages: counts with their nouns, and suggestions for unknown names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What a user calls the types that pydantic names.
_KINDS = {
    "number": "a number",
    "integer": "a whole number",
    "string": "text",
    "boolean": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dictionary": "a table of keys",
}


def plural(count: int, noun: str, several: str = "") -> str:
    """``count`` and ``noun``, or ``several`` (by default with an "s") unless ``count`` is 1.

    Examples:
        >>> plural(1, "epoch"), plural(1200, "step"), plural(2, "batch", "batches")
        ('1 epoch', '1,200 steps', '2 batches')
    """
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def unknown_name(opening: str, name: object, known: Iterable[str], more: str = "") -> str:
    """The message about an unknown name: it lists the known names, and suggests the most similar one.

    Examples:
        >>> unknown_name("unknown network", "lenat", ["lenet", "two-cnn"], ", or file.py:factory")
        "unknown network 'lenat'; expected one of lenet, two-cnn, or file.py:factory; did you mean 'lenet'?"
    """
    known = list(known)
    return f"{opening} {name!r}; expected one of {', '.join(known)}{more}{did_you_mean(name, known)}"


def unknown_key(name: object, known: Sequence[str]) -> str:
    """The message about a key that a file may not have.

    Examples:
        >>> unknown_key("batchsize", ["lr", "batch_size"])
        "unknown key; expected one of lr, batch_size; did you mean 'batch_size'?"
    """
    return f"unknown key; expected one of {', '.join(known)}{did_you_mean(name, known)}"


def not_installed(what: str, package: str, extra: str) -> str:
    """The message about an optional package that is not installed.

    Examples:
        >>> not_installed("a data frame", "pandas", "frame")
        "a data frame needs pandas, which is not installed; pip install 'bnkit[frame]'"
    """
    return f"{what} needs {package}, which is not installed; pip install 'bnkit[{extra}]'"


def validation_message(error: Mapping[str, Any]) -> str:
    """One of the errors that pydantic lists, as ``expected …, got …``.

    Examples:
        >>> validation_message({"type": "greater_than", "msg": "Input should be greater than 0", "input": -1})
        'expected a number greater than 0, got -1'
    """
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    message = re.sub("expected (?=greater|less)", "expected a number ", message)
    message = re.sub("a valid (\\w+)", lambda kind: _KINDS.get(kind[1], kind[0]), message)
    message = re.sub("\\w+ should have at least (\\d+) item.*", lambda match: _at_least(int(match[1])), message)
    message = re.sub(", unable to parse .*|\\.$", "", message)
    choices = re.fullmatch("'.*' is not one of (.*)", message)  # Typer's, from click
    message = message if choices is None else f"expected one of {choices[1]}"
    is_choice = choices is not None or error["type"] in ("literal_error", "enum")
    close = did_you_mean(error["input"], re.findall("'([^']*)'", message)) if is_choice else ""
    return f"{message}, got {error['input']!r:.80}{close}"


def _at_least(count: int) -> str:
    return f"expected at least {plural(count, 'value')}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: a question with the most similar known name; empty if none is similar.

    Examples:
        >>> did_you_mean("LeNat", ["lenet", "two-cnn"])
        "; did you mean 'lenet'?"
        >>> did_you_mean("resnet-9000", ["lenet", "two-cnn"])
        ''
    """
    from difflib import get_close_matches

    by_lower_case = {each.lower(): str(each) for each in known}
    close = get_close_matches(str(name).lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[close[0]]!r}?" if close else ""
