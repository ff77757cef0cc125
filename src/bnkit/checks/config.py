"""Which rules are run and which findings are left out, as a project says it in its ``pyproject.toml``."""

from __future__ import annotations

import tomllib  # not pydantic-settings, which reads a missing file as an empty one and does not name a broken one
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bnkit.checks.finding import Finding, Severity
from bnkit.checks.rule_registry import Names, matching_codes
from bnkit.errors import SettingsError


class CheckConfig(BaseModel):
    """What ``[tool.bnkit]`` may hold.

    Attributes:
        select, ignore: Codes, beginnings of codes, or names of rules; ``select`` is all rules for None.
        fail_on: The least severity for which ``bnkit check`` ends with status 1.
        per_layer_ignores: For dotted names with a shell's wildcards, the rules whose findings there are left out.
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
        """These, with what is given in the place of what they say.

        Raises:
            SettingsError: It names an unknown rule or severity.
        """
        ignores = {pattern: _several(names) for pattern, names in (per_layer_ignores or {}).items()}
        given = {
            "select": self.select if select is None else _several(select),
            "ignore": self.ignore if ignore is None else _several(ignore),
            "per-layer-ignores": self.per_layer_ignores if per_layer_ignores is None else ignores,
            "fail-on": self.fail_on if fail_on is None else fail_on,
        }
        return parse_config(given, "what was given")

    def ignores(self, finding: Finding) -> bool:
        """Whether the finding is left out for the place where it is."""
        return any(
            fnmatchcase(finding.site, pattern) and finding.code in matching_codes(names)
            for pattern, names in self.per_layer_ignores.items()
        )


def load_config(path: str | Path) -> CheckConfig:
    """What ``[tool.bnkit]`` of a ``pyproject.toml`` says; the usual where it says nothing.

    Raises:
        SettingsError: The file cannot be read, or holds an unknown key, rule or severity.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); expected a TOML file") from error
    table = content.get("tool", {})
    found = table.get("bnkit", {}) if isinstance(table, dict) else {}
    return parse_config(found, str(path))


def parse_config(content: Any, source: str) -> CheckConfig:
    """The settings that ``content``, a table of TOML, says.

    Raises:
        SettingsError: It holds an unknown key, rule or severity.
    """
    try:
        settings = CheckConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("tool", "bnkit", *first["loc"])))
        keys = ", ".join(str(field.alias) for field in CheckConfig.model_fields.values())
        raise SettingsError(f"{source}: {where}: {first['msg']}; expected the keys {keys}") from error
    for names in (settings.select or (), settings.ignore, *settings.per_layer_ignores.values()):
        try:
            matching_codes(names)
        except SettingsError as error:
            raise SettingsError(f"{source}: {error}") from error
    return settings


def nearest_config(folder: Path) -> CheckConfig:
    """Those of the nearest ``pyproject.toml`` in ``folder`` or above it; the usual where there is none.

    Raises:
        SettingsError: As ``load_config``.
    """
    found = next((path for parent in (folder, *folder.parents) if (path := parent / "pyproject.toml").is_file()), None)
    return CheckConfig() if found is None else load_config(found)


def _several(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
