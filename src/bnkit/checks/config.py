"""The checker's configuration: which rules run and which findings are skipped, from ``pyproject.toml``."""

from __future__ import annotations

import tomllib  # not pydantic-settings, which reads a missing file as an empty one and does not name a broken one
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule_registry import Names, matching_codes
from bnkit.errors import SettingsError
from bnkit.message_parts import did_you_mean, unknown_key, validation_message

# The layers that a message names.
_NAMED = 8


class CheckConfig(BaseModel):
    """The settings in ``[tool.bnkit]``.

    Attributes:
        select, ignore: Codes, beginnings of codes, or names of rules; ``select`` is all rules for None.
        fail_on: The lowest severity for which ``bnkit check`` exits with status 1.
        per_layer_ignores: The rules to skip, by dotted layer names with shell wildcards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    fail_on: Severity = Severity.WARNING
    per_layer_ignores: dict[str, tuple[str, ...]] = {}

    def with_overrides(
        self,
        select: Names | None = None,
        ignore: Names | None = None,
        per_layer_ignores: Mapping[str, Names] | None = None,
        fail_on: str | None = None,
    ) -> CheckConfig:
        """This configuration, with its values replaced by the arguments that are not None.

        Raises:
            SettingsError: If an argument names an unknown rule or severity.
        """
        ignores = {pattern: _as_tuple(names) for pattern, names in (per_layer_ignores or {}).items()}
        values = {
            "select": self.select if select is None else _as_tuple(select),
            "ignore": self.ignore if ignore is None else _as_tuple(ignore),
            "per-layer-ignores": self.per_layer_ignores if per_layer_ignores is None else ignores,
            "fail-on": self.fail_on if fail_on is None else fail_on,
        }
        return parse_config(values)

    def ignores(self, finding: Finding) -> bool:
        """Whether ``per_layer_ignores`` skips the finding."""
        return any(
            fnmatchcase(finding.site, pattern) and finding.code in matching_codes(names)
            for pattern, names in self.per_layer_ignores.items()
        )

    def unmatched(self, layers: Iterable[str]) -> list[str]:
        """A sentence about each pattern of ``per_layer_ignores`` that matches none of the dotted names ``layers``."""
        names = list(layers)
        known = [name for name in names if name]
        some = ", ".join(known[:_NAMED]) + (f" and {len(known) - _NAMED} more" if len(known) > _NAMED else "")
        return [
            f"no layer matches {pattern!r} of per-layer-ignores; the model has {some or 'no layers'}{did_you_mean(pattern, known)}"
            for pattern in self.per_layer_ignores
            if not any(fnmatchcase(name, pattern) for name in names)
        ]


def load_config(path: str | Path) -> CheckConfig:
    """The configuration in ``[tool.bnkit]`` of a ``pyproject.toml``, with defaults for missing keys.

    Raises:
        SettingsError: If the file cannot be read, or holds an unknown key, rule or severity.
    """
    path = Path(path)
    try:
        file = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); expected a TOML file") from error
    table = file.get("tool", {})
    content = table.get("bnkit", {}) if isinstance(table, dict) else {}
    return parse_config(content, str(path))


def parse_config(content: Any, source: str = "") -> CheckConfig:
    """The configuration in ``content``, a table of TOML from the file ``source``, or the arguments of a call.

    Raises:
        SettingsError: If it holds an unknown key, rule or severity.
    """
    try:
        config = CheckConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = _key_name(source, *first["loc"])
        keys = [str(field.alias) for field in CheckConfig.model_fields.values()]
        if first["type"] == "extra_forbidden":
            message = unknown_key(first["loc"][-1], keys)
        else:
            message = validation_message(first)
        raise SettingsError(f"{where}: {message}") from error
    codes_by_key = {"select": [config.select or ()], "ignore": [config.ignore]}
    for key, lists in {**codes_by_key, "per-layer-ignores": [*config.per_layer_ignores.values()]}.items():
        try:
            for names in lists:
                matching_codes(names)
        except SettingsError as error:
            raise SettingsError(f"{_key_name(source, key)}: {error}") from error
    return config


def nearest_config(folder: Path) -> CheckConfig:
    """The configuration in the nearest ``pyproject.toml`` in ``folder`` or above it; the defaults if there is none.

    Raises:
        SettingsError: As ``load_config``.
    """
    nearest = next(
        (path for parent in (folder, *folder.parents) if (path := parent / "pyproject.toml").is_file()), None
    )
    return CheckConfig() if nearest is None else load_config(nearest)


def _key_name(source: str, key: object, *within: object) -> str:
    """A key as a message names it: in a file, or as the parameter of a call."""
    if not source:
        return f"`{str(key).replace('-', '_')}`"
    return f"{source}: {'.'.join(map(str, ('tool', 'bnkit', key, *within)))}"


def _as_tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
