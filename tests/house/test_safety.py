"""Who may write, what may be loaded, where chance comes from, and what is never imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import Module, Violation, dotted, functions, owners, parse, require_none, saccade

WRITERS = {
    "saccade.files",
    "saccade.system.doors",
    "saccade.system.growing",
    "saccade.system.locks",
}
WRITER = "saccade.files"
MODE = re.compile(r"[rwaxbtU+]{1,4}([:|]\w*)?")
OPENERS = {"open", "fdopen", "ZipFile", "TarFile", "GzipFile", "LZMAFile", "BZ2File", "FileIO"}
CHANGES = {
    "write_text",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
    "touch",
    "symlink_to",
    "hardlink_to",
    "chmod",
    "savez",
    "savez_compressed",
    "savetxt",
    "tofile",
    "save_file",
    "FileHandler",
    "sendfile",
}
OS_CHANGES = {
    "rename",
    "renames",
    "replace",
    "remove",
    "unlink",
    "rmdir",
    "removedirs",
    "mkdir",
    "makedirs",
    "truncate",
    "link",
    "symlink",
    "utime",
    "mkfifo",
    "write",
    "pwrite",
}
HARMLESS_SHUTIL = {"disk_usage", "which", "get_terminal_size"}
MEMORY = {"BytesIO", "StringIO"}

UNSAFE_IMPORTS = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
}
UNSAFE_CALLS = {"torch.load", "torch.hub.load", "eval", "exec"}
YAML_DOOR = "saccade.config.plain_yaml"
YAML_READERS = re.compile(r"yaml\.(\w*load\w*|parse|scan|compose\w*|\w*Loader)")
UNSAFE_METHODS = {"extractall", "extract", "unpack_archive", "Unpickler"}

SPEAKERS = {
    "print",
    "typer.echo",
    "typer.secho",
    "click.echo",
    "Console",
    "rich.print",
    "rich.console.Console",
}
VOICES = {"saccade.cli.app", "saccade.system.consoles"}

RANDOM_IMPORTS = {"random", "secrets", "uuid"}
TORCH_DRAWS = re.compile(
    r"torch\.(rand|rand(n|int|perm|_like|n_like|int_like)|normal|bernoulli|multinomial|poisson|seed|manual_seed|initial_seed|set_rng_state|default_generator"
    r"|random\.(?!fork_rng$)\w+|cuda\.manual_seed\w*|Generator|distributions(\.\w+)*)"
)
DRAWING_METHODS = {
    "uniform_",
    "normal_",
    "bernoulli_",
    "random_",
    "exponential_",
    "cauchy_",
    "log_normal_",
    "geometric_",
    "xavier_uniform_",
    "xavier_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "trunc_normal_",
    "orthogonal_",
}
THE_ONE_SEED = ("saccade.training.step", "torch.manual_seed")


def writes(module: Module) -> list[Violation]:
    """Find calls that open for writing or change the file system."""
    owner = owners(module.tree)
    memory = in_memory_names(module)
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and (
            what := writing(node, memory.get(owner.get(node, ""), set()))
        ):
            place = f"{module.place}::{owner[node]}" if node in owner else module.place
            found.append(Violation(place, node.lineno, f"{what}: only files.py writes"))
    return found


def writing(call: ast.Call, memory: set[str]) -> str:
    """Say how a call writes to the disk; the empty string when it does not."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else dotted(call.func)
    owner = dotted(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if owner == "os":
        flags = {getattr(n, "attr", "") for argument in call.args[1:] for n in ast.walk(argument)}
        opens = name == "open" and flags & {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}
        return (
            f"os.{name}"
            if name in OS_CHANGES or (opens and dotted(call.args[0]) != "os.devnull")
            else ""
        )
    if owner == "shutil":
        return "" if name in HARMLESS_SHUTIL else f"shutil.{name}"
    if (owner == "tempfile" and name != "gettempdir") or (
        name == "save" and owner in ("torch", "np", "numpy")
    ):
        return f"{owner}.{name}"
    if name in OPENERS:
        return opening(call, name)
    if name == "write_bytes" and owner != "files":
        return "write_bytes"
    if name == "replace" and len(call.args) == 1 and not call.keywords and owner:
        return "Path.replace"  # str.replace has two arguments
    if (
        name in {"savefig", "save"}
        and isinstance(call.func, ast.Attribute)
        and owner not in {"checkpoint", "saving", "safetensors.torch", "safetensors.numpy"}
    ):
        target = call.args[0] if call.args else None
        return "" if target is None or is_memory(target, memory) else f"{name} to a path"
    return name if name in CHANGES else ""


def opening(call: ast.Call, name: str) -> str:
    """Say in which mode a call of some ``open`` writes.

    A mode that is not a constant counts as writing.
    """
    mode = next((k.value for k in call.keywords if k.arg == "mode"), None)
    candidates = [mode] if mode is not None else call.args[:2]
    for value in candidates:
        text = value.value if isinstance(value, ast.Constant) else None
        if (
            isinstance(text, str)
            and MODE.fullmatch(text)
            and set(re.split("[:|]", text)[0]) & set("wax+")
        ):
            return f"{name}(..., {text!r})"
    return (
        f"{name} with a computed mode"
        if mode is not None and not isinstance(mode, ast.Constant)
        else ""
    )


def is_memory(target: ast.expr, names: set[str]) -> bool:
    """Say whether an argument is a buffer in memory: made in place, or bound to a name before."""
    if isinstance(target, ast.Call):
        return dotted(target.func).split(".")[-1] in MEMORY
    return isinstance(target, ast.Name) and target.id in names


def in_memory_names(module: Module) -> dict[str, set[str]]:
    """Return, for each function, the names that it binds to a buffer in memory."""
    return {
        name: {
            node.targets[0].id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and is_memory(node.value, set())
        }
        for name, function in functions(module.tree)
    }


def imported_roots(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the first word of every imported name with its line, and the whole name of
    ``numpy.random``.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name.split(".")[0], node.lineno
            if name.startswith("numpy.random"):
                yield "numpy.random", node.lineno


def speaks(module: Module) -> list[Violation]:
    """Find what prints past the two modules that make names of strangers printable."""
    return [
        Violation(
            module.place, node.lineno, f"calls {name}: terminal.show and consoles.console print"
        )
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and (name := dotted(node.func)) in SPEAKERS
    ]


def unsafe(module: Module) -> list[Violation]:
    """Find what can run foreign code or unpack foreign archives."""
    found = [
        Violation(module.place, line, f"imports {name}")
        for name, line in imported_roots(module)
        if name in UNSAFE_IMPORTS
    ]
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else name
        if YAML_READERS.fullmatch(name) and module.name != YAML_DOOR:
            found.append(
                Violation(module.place, node.lineno, f"calls {name}: only plain_yaml reads YAML")
            )
        pickled = any(
            k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords
        )
        if name in UNSAFE_CALLS or method in UNSAFE_METHODS or pickled:
            found.append(Violation(module.place, node.lineno, f"calls {name or method}"))
    return found


def global_chance(module: Module) -> list[Violation]:
    """Find draws that do not come from counter keys."""
    found = [
        Violation(module.place, line, f"imports {name}")
        for name, line in imported_roots(module)
        if name in RANDOM_IMPORTS | {"numpy.random"}
    ]
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Attribute) or (module.name, dotted(node)) == THE_ONE_SEED:
            continue
        name = dotted(node)
        if (
            TORCH_DRAWS.fullmatch(name)
            or name in {"np.random", "numpy.random"}
            or node.attr in DRAWING_METHODS
        ):
            found.append(Violation(module.place, node.lineno, f"uses {name or node.attr}"))
    return found


def test_only_files_opens_anything_for_writing() -> None:
    require_none("writes", [v for m in saccade() if m.name not in WRITERS for v in writes(m)])


def test_nothing_is_printed_past_what_makes_names_printable() -> None:
    require_none("prints", [v for m in saccade() if m.name not in VOICES for v in speaks(m)])


@pytest.mark.parametrize("line", ["print(name)", "typer.echo(name)", "Console(stderr=True)"])
def test_control_a_loose_voice_is_heard(tmp_path: Path, line: str) -> None:
    assert len(speaks(parsed(tmp_path, line + "\n"))) == 1


def test_nothing_loads_pickles_or_extracts_archives() -> None:
    require_none("unsafe", [v for m in saccade() for v in unsafe(m)])


def test_every_draw_comes_from_counter_keys() -> None:
    require_none("global-chance", [v for m in saccade() for v in global_chance(m)])


def test_files_is_where_the_writing_is() -> None:
    """The control that needs no synthetic tree: the finder sees the writes of the module that
    has them.
    """
    module = next(m for m in saccade() if m.name == WRITER)
    assert len({v.place for v in writes(module)}) >= 5


def parsed(folder: Path, text: str, name: str = "log") -> Module:
    (folder / "saccade").mkdir()
    (folder / "saccade" / f"{name}.py").write_text(text)
    return parse(folder / "saccade", folder)[0]


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'w')",
        "open(p, mode='ab')",
        "p.open('x')",
        "open(p, 'r+b')",
        "gzip.open(p, 'wt')",
        "open(p, mode=m)",
        "tarfile.open(p, 'w:xz')",
        "zipfile.ZipFile(p, 'a')",
        "p.write_text('x')",
        "p.write_bytes(b'')",
        "p.rename(q)",
        "p.replace(q)",
        "os.replace(p, q)",
        "os.remove(p)",
        "os.open(p, os.O_RDWR)",
        "shutil.rmtree(p)",
        "np.save(p, x)",
        "torch.save(x, p)",
        "figure.savefig(p)",
        "image.save(p)",
        "tempfile.mkdtemp()",
        "p.mkdir()",
    ],
)
def test_control_a_write_is_seen(tmp_path: Path, line: str) -> None:
    assert [v.place for v in writes(parsed(tmp_path, f"def f():\n    {line}\n"))] == [
        "saccade/log.py::f"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'rb')",
        "open(p)",
        "tarfile.open(p, 'r:xz')",
        "p.open()",
        "name.replace('a', 'b')",
        "shutil.disk_usage(p)",
        "files.write_bytes(p, b'')",
        "image.save(io.BytesIO())",
        "safetensors.torch.save(x)",
        "replace(config, lr=1)",
        "os.open(os.devnull, os.O_WRONLY)",
        "save(run, log)",
        "Image.open(io.BytesIO(d), formats=('PNG',))",
    ],
)
def test_control_reading_is_not_writing(tmp_path: Path, line: str) -> None:
    assert writes(parsed(tmp_path, f"def f():\n    {line}\n")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from torch import load\ntorch.load(p)",
        "archive.extractall(p)",
        "np.load(p, allow_pickle=True)",
        "yaml.safe_load(t)",
        "yaml.load(t, yaml.SafeLoader)",
    ],
)
def test_control_a_danger_is_seen(tmp_path: Path, line: str) -> None:
    assert len(unsafe(parsed(tmp_path, line + "\n"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "import random",
        "from numpy.random import default_rng",
        "np.random.rand(3)",
        "torch.randn(3)",
        "torch.manual_seed(1)",
        "x.normal_()",
        "torch.nn.init.kaiming_normal_(x)",
        "torch.Generator()",
    ],
)
def test_control_global_chance_is_seen(tmp_path: Path, line: str) -> None:
    assert len(global_chance(parsed(tmp_path, line + "\n"))) == 1


def test_control_the_one_seed_is_allowed_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "saccade" / "training").mkdir(parents=True)
    (tmp_path / "saccade" / "training" / "step.py").write_text(
        "torch.manual_seed(1)\ntorch.rand(2)\n"
    )
    (module,) = parse(tmp_path / "saccade", tmp_path)
    assert [v.what for v in global_chance(module)] == ["uses torch.rand"]
