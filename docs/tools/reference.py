"""Write the pages of the reference that are made from the code: docs/reference/.

python docs/tools/reference.py [FOLDER]
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import found
import typer
import typer.main

import saccade
from saccade.cli.main import app
from saccade.log import Log
from saccade.report import architectures

DOCS = Path(__file__).parents[1]
ROW = re.compile(r"^\| (`[a-z-]+`(?:,? `[a-z-]+`)*) \| ([^|]+) \| (.+) \|$", re.M)
"""A line of the table of docs/preflight.md: ids, severity, when it is found."""


def cell(text: object) -> str:
    """Return a text for a cell of a table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").strip()


def paragraphs(docstring: str | None) -> str:
    """Return a docstring as Markdown: names in code, one line for each paragraph."""
    text = inspect.cleandoc(docstring or "").replace("``", "`")
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def commands() -> str:
    """Return the page of the command line: every verb with its arguments and options."""
    group: Any = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "Made from the program's own help. Every verb takes `--help`.",
        "",
    ]
    lines += ["| verb | what it does |", "|---|---|"]
    for name, verb in group.commands.items():
        first = paragraphs(verb.help).split("\n\n")[0]
        lines.append(f"| [`saccade {name}`](#saccade-{name}) | {cell(first)} |")

    for name, verb in group.commands.items():
        lines += ["", f"## saccade {name}", "", paragraphs(verb.help), ""]
        if verb.epilog:
            example = verb.epilog.removeprefix("Example: ")
            lines += ["```text", example, "```", ""]
        lines += ["| | meaning | default |", "|---|---|---|", *options(verb)]
    return "\n".join(lines) + "\n"


def options(verb: Any) -> Iterator[str]:
    """Yield a row for each argument and option of a verb."""
    for one in verb.params:
        if one.hidden:
            continue
        is_option = one.opts[0].startswith("-")
        value = "" if not is_option or one.is_flag else " " + one.name.upper().replace("_", "-")
        name = (
            ", ".join(f"`{o}{value}`" for o in one.opts) if is_option else f"`{one.name.upper()}`"
        )
        default = "" if one.default in (None, False, "", ()) else f"`{cell(one.default)}`"
        if one.required:
            default = "needed"
        yield f"| {name} | {cell(one.help or '')} | {default} |"


def models() -> str:
    """Return the page of all architectures with what they cost."""
    rows, _ = architectures.rows(saccade.list_models("*"), 1000, None, Log())
    lines = [
        "# All models",
        "",
        "Made by `saccade models`, with a head of 1,000 classes. " + architectures.LEGEND,
    ]
    lines += [
        "",
        "| model | px | parameters | MACs | MB/image | source |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        size, params, macs = row["image_size"], row["params"] / 1e6, row["macs"] / 1e6
        kept = row["kept_bytes"] / 1e6
        figures = f"{size} | {params:,.2f} M | {macs:,.0f} M | {kept:,.1f}"
        lines.append(f"| `{row['model']}` | {figures} | {cell(row['source'])} |")
    return "\n".join(lines) + "\n"


def findings() -> str:
    """Return the page of all findings: cause, words and cure."""
    told, known = causes(), found.findings()
    lines = [
        "# All findings",
        "",
        "Made from the source: `…` stands for what is only known when the program runs.",
        "[Preflight](../preflight.md) has them in one table; the",
        "[questions and answers](../faq.md) say more of the usual ones.",
        "",
    ]
    for name in sorted(known):
        severity, cause = told[name]
        lines += [f"## {name}", "", f"*{severity}*", "", f"**Found when** {cause}", ""]
        ways = [said for said in known[name] if re.search(r"\w", said.message)]
        lines += ["**It says**", ""] if ways else []
        for said in ways:
            lines.append(f"- {shown(said.message)}")
            if re.search(r"\w", said.fix):
                lines.append(f"    - do: {shown(said.fix)}")
        lines.append("")
    return "\n".join(lines)


def shown(text: str) -> str:
    """Return words of the program for a page: nothing in them is Markdown."""
    return re.sub(r"([<>*_|`\[\]])", r"\\\1", text)


def causes() -> dict[str, tuple[str, str]]:
    """Return severity and cause of each finding, as docs/preflight.md has them."""
    page = (DOCS / "preflight.md").read_text(encoding="utf-8")
    causes = {}
    for ids, severity, cause in ROW.findall(page):
        linked = re.sub(r"\]\((?!https?:|#)", "](../", cause)
        for name in re.findall(r"`([a-z-]+)`", ids):
            causes[name] = (severity.strip(), linked.strip())
    return causes


def python() -> str:
    """Return the page of the Python functions and classes."""
    lines = [
        "# Python",
        "",
        "Everything that `import saccade` gives, made from its docstrings.",
        "",
    ]
    for name in sorted(saccade.__all__, key=str.lower):
        value = getattr(saccade, name)
        if not callable(value):
            continue
        lines += [f"## {name}", ""]
        if not inspect.isclass(value):
            words = [
                str(p.replace(annotation=p.empty))
                for p in inspect.signature(value).parameters.values()
            ]
            lines += ["```text", f"saccade.{name}({', '.join(words)})", "```", ""]
        lines += [paragraphs(value.__doc__), ""]
    return "\n".join(lines)


PAGES = {"commands": commands, "python": python, "models": models, "findings": findings}


def write(folder: Path, skip: Set[str] = frozenset()) -> None:
    """Write the pages into a folder, but for those that are skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PAGES.keys() - skip:
        (folder / f"{name}.md").write_text(PAGES[name](), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "reference")
