"""Lessons are notebooks without outputs. This runs them and writes each as a page, with what it prints and draws.

python docs/lessons/execute.py            # all of them, into docs/lessons/*.md, which git ignores
python docs/lessons/execute.py build/xyz  # into another folder

They run on the embedded digits; what a reader may set (``LESSON_DATA``, ``LESSON_EPOCHS`` …) is taken from the environment.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

HERE = Path(__file__).parent
LESSONS = sorted(HERE.glob("[0-9]*.ipynb"))

# The exporter's own template has no descriptions of pictures, and indents what is printed, which is then coloured as Python.
# Cells that are marked to fold draw pictures and tables; a notebook hides them too.
_TEMPLATE = """{%- extends "markdown/index.md.j2" -%}
{%- block data_svg %}
![{{ output.metadata["image/svg+xml"]["alt"] }}]({{ output.metadata.filenames["image/svg+xml"] | path2url }})
{% endblock data_svg -%}
{%- block stream %}
```text
{{ output.text | trim }}
```
{% endblock stream -%}
{%- block input %}
{%- if "fold" in cell.metadata.tags %}

<details markdown="1"><summary>Code</summary>
{{ super() }}
</details>
{% else -%}
{{ super() }}
{%- endif %}
{% endblock input -%}"""


def execute(lesson: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs. It runs in a folder of its own, which is removed.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
        RuntimeError: If a cell prints to standard error.
    """
    notebook = nbformat.read(lesson, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
            # Sockets in the file system: the lessons need no network, not even that of this machine.
            config=Config({"KernelManager": {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}}),
        )
        # Nothing is compiled in the background, and no profile of the user is read.
        client.execute(env={"BNKIT_COMPILE": "off", **os.environ, "IPYTHONDIR": folder})
    warned = [
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]
    if warned:
        raise RuntimeError(f"{lesson.name} prints to standard error, which a page does not show: {warned[0]}")
    return notebook


def write_page(notebook: nbformat.NotebookNode, name: str, folder: Path) -> Path:
    """Write ``folder/name.md`` and its pictures, ``folder/name_files``; links between lessons lead to the pages."""
    exporter = MarkdownExporter(extra_loaders=[DictLoader({"lesson": _TEMPLATE})], template_file="lesson")
    text, resources = exporter.from_notebook_node(
        notebook, {"unique_key": name, "output_files_dir": f"{name}_files", "metadata": {"name": name}}
    )
    text = text.replace("  # fmt: skip", "")
    for lesson in LESSONS:
        text = text.replace(f"({lesson.name})", f"({lesson.stem}.md)")
    title, rest = text.lstrip().split("\n", 1)
    shutil.rmtree(folder / f"{name}_files", ignore_errors=True)  # of an earlier version of the lesson
    for path, content in resources["outputs"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    page = folder / f"{name}.md"
    page.write_text(f"{title}\n\n[Open this lesson as a notebook]({name}.ipynb)\n{rest}", encoding="utf-8")
    return page


def main() -> None:
    """Run all lessons and write their pages."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for lesson in LESSONS:
        write_page(execute(lesson), lesson.stem, folder)


if __name__ == "__main__":
    main()
