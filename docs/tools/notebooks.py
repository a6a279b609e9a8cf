"""A hook of the site: each notebook is a page, too, made of its text and its code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

NOTE = "[The notebook itself]({name}), to download and run.\n"


def text_of(notebook: Path) -> str:
    """Return a notebook as Markdown, with a link to the file below its title."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    title, _, rest = parts[0].partition("\n")
    note = NOTE.format(name=notebook.name)
    return "\n\n".join([title, note, rest.strip(), *parts[1:]]) + "\n"


def on_files(files: Files, *, config: Any) -> Files:
    """Add a page for each notebook of the site."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            place = file.src_uri.removesuffix(".ipynb") + ".md"
            text = text_of(Path(file.abs_src_path))
            level = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, place, content=text, inclusion=level))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Let the page about notebooks lead to their pages; in a clone its links lead to the files."""
    if page.file.src_uri != "notebooks.md":
        return markdown
    return re.sub(r"\((notebooks/[\w-]+)\.ipynb\)", r"(\1.md)", markdown)
