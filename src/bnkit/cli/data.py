"""``bnkit data``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from bnkit.console import stdout_console
from bnkit.errors import DataError
from bnkit.message_parts import unknown_name
from bnkit.text_table import Column, Table

if TYPE_CHECKING:
    from bnkit.data.downloads import FileState


def data(
    names: Annotated[list[str] | None, Argument(metavar="[NAME]...", help="Only these.")] = None,
    fetch: Annotated[bool, Option("--fetch", help="Download and verify missing files.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print the list as JSON.")] = False,
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """`bnkit data` lists the data sets, their files, and whether they are present; `bnkit data mnist --fetch` fetches one.

    Files are kept in the directory that BNKIT_DATA names, otherwise in the platform's cache directory. A file is used only
    if its SHA-256 matches.
    """
    from bnkit.data.catalog import DATA_SETS
    from bnkit.data.downloads import FileState, cache_directory

    unknown = [name for name in names or () if name not in DATA_SETS]
    if unknown:
        raise DataError(unknown_name("unknown data set", unknown[0], DATA_SETS))
    chosen = [DATA_SETS[name] for name in names or DATA_SETS]
    if fetch:
        for source in chosen:
            for file in source.files:
                file.fetch()
    entries = []
    for source in chosen:
        states = [(file, file.state()) for file in source.files]
        entries.append(
            {
                "name": source.name,
                "state": _summary([state for _, state in states]),
                "where": str(cache_directory() / source.name) if states else "part of bnkit",
                "about": source.about,
                "broken": [str(cache_directory() / file.name) for file, state in states if state is FileState.BROKEN],
                "missing": [str(cache_directory() / file.name) for file, state in states if state is FileState.MISSING],
            }
        )
    console = stdout_console()
    if as_json:
        console.print_json(data=entries)
        return
    columns = ("name", "state", Column("where", 2, below=True), Column.of_sentences("about"))
    table = Table(
        columns, [tuple(str(entry[column]) for column in ("name", "state", "where", "about")) for entry in entries]
    )
    console.print_table(table)
    for entry in entries:
        for path in entry["broken"]:
            console.print_sentences(
                f"broken: {path}: its SHA-256 is not the published one; delete it and fetch it again"
            )


def _summary(states: list[FileState]) -> str:
    from bnkit.data.downloads import FileState

    if FileState.BROKEN in states:
        return FileState.BROKEN.value
    if FileState.MISSING in states:
        return FileState.MISSING.value if FileState.THERE not in states else "in part"
    return FileState.THERE.value
