"""Install a built wheel or source distribution into an empty environment, and use it.

    python tests/release/smoke.py dist [--python python3.12]

Needs nothing but the standard library. It trains the built-in digits, scores, predicts and exports
them, kills a run and resumes it, and then installs the extras one after the other. What an extra is
for must name the package before, and work after. Downloads torch; takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 600
BASE = ("train", "--data", "digits", "--epochs", "2")


@dataclass(frozen=True)
class Extra:
    """An extra, a command that needs it, and what that command says without it."""

    name: str
    arguments: tuple[str, ...]
    status: int
    advice: str


EXTRAS = (
    Extra("onnx", ("export", "whole", "--format", "onnx"), 2, "pip install onnx onnxruntime"),
    Extra("timm", (*BASE, "--model", "timm:resnet10t", "--dry-run"), 78, "pip install timm"),
    Extra(
        "track",
        (*BASE, "--out", "tracked", "--set", "log.tensorboard=true"),
        78,
        "pip install tensorboard",
    ),
)


@dataclass(frozen=True)
class Installed:
    """An environment, and the folder in which its commands run."""

    environment: Path
    folder: Path

    @property
    def programs(self) -> Path:
        """Where the programs of the environment lie."""
        return self.environment / ("Scripts" if os.name == "nt" else "bin")

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of the program ``saccade``."""
        return [str(self.programs / "saccade"), *arguments]

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run ``saccade``; raises SystemExit where it does not end with this status."""
        begun = time.monotonic()
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=LIMIT_S,
        )
        print(f"  saccade {' '.join(arguments)}: {done.returncode}", end="")
        print(f", {time.monotonic() - begun:.0f} s", flush=True)
        require(done.returncode == status, f"expected status {status}:\n{done.stdout}{done.stderr}")
        return done

    def pip(self, *arguments: str) -> None:
        """Run pip in the environment."""
        command = [str(self.programs / "python"), "-m", "pip", "--disable-pip-version-check"]
        print(f"  pip {' '.join(arguments)}", flush=True)
        subprocess.run([*command, *arguments], cwd=self.folder, check=True)


def require(true: bool, otherwise: str) -> None:
    """End with a message unless something is true; ``assert`` is not there under -O."""
    if not true:
        raise SystemExit(f"FAILED: {otherwise}")


def train_score_predict_export(program: Installed) -> None:
    """Use every step of the way from digits to an exported file."""
    version = program.run("--version").stdout
    require(version.startswith("saccade "), f"--version says {version!r}")
    trained = json.loads(program.run(*BASE, "--out", "whole", "--json").stdout)
    scored = json.loads(program.run("eval", "whole", "--json").stdout)
    require(scored["correct"] == trained["correct"], f"trained {trained}, then scored {scored}")

    program.run("prepare", "digits", "pictures")
    picture = min((program.folder / "pictures" / "test").rglob("*.png"))
    answer = program.run("predict", "whole", str(picture), "--json").stdout
    require(picture.name in answer, f"predict answers {answer}")

    program.run("export", "whole", "--format", "pt2,pt")
    for name in ("model.pt2", "model.pt"):
        require((program.folder / "whole" / "export" / name).is_file(), f"there is no {name}")
    listed = program.run("recipes").stdout
    require("digits" in listed and "resnet50-100ep" in listed, f"recipes lists {listed}")


def kill_and_resume(program: Installed) -> None:
    """Kill a run after its first checkpoint; the same command must end with the same weights."""
    arguments = (*BASE, "--out", "killed", "--set", "checkpoint.every=5step")
    places = program.folder / "killed" / "checkpoints"
    begun = program.command(*arguments)
    with subprocess.Popen(begun, cwd=program.folder, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + LIMIT_S
        while process.poll() is None and not list(places.glob("step_????????")):
            require(time.monotonic() < until, "there is no checkpoint")
            time.sleep(0.01)
        process.kill()
    require(process.returncode != 0, "the run was over before it was killed")

    resumed = program.run(*arguments).stderr
    require("resuming at step" in resumed, f"it was not resumed:\n{resumed}")
    runs = ("whole", "killed")
    weights = [(program.folder / run / "model.safetensors").read_bytes() for run in runs]
    require(weights[0] == weights[1], "the resumed weights differ from the undisturbed ones")


def use_extra(program: Installed, extra: Extra, package: Path, constraints: Path) -> None:
    """Ask for an extra before and after it is installed."""
    without = program.run(*extra.arguments, status=extra.status).stderr
    require(extra.advice in " ".join(without.split()), f"no '{extra.advice}' in:\n{without}")
    program.pip("install", "--quiet", "-c", str(constraints), f"{package}[{extra.name}]")
    program.run(*extra.arguments)


def main() -> None:
    """Do all of it with one package and one interpreter."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "package", type=Path, help="a wheel, a source distribution, or a folder with one wheel"
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter to install into")
    parser.add_argument("--environment", type=Path, help="use this one, which is set up already")
    given = parser.parse_args()
    package = given.package.resolve(strict=True)
    if package.is_dir():
        (package,) = package.glob("*.whl")
    constraints = Path(__file__).resolve().parents[2] / "constraints.txt"

    with tempfile.TemporaryDirectory(prefix="saccade-smoke-") as place:
        environment = (given.environment or Path(place) / "environment").resolve()
        program = Installed(environment, Path(place))
        if given.environment is None:
            subprocess.run([given.python, "-m", "venv", str(environment)], check=True)
            program.pip("install", "--quiet", "-c", str(constraints), str(package))
        train_score_predict_export(program)
        kill_and_resume(program)
        for extra in EXTRAS:
            use_extra(program, extra, package, constraints)
    print(f"1 passed, 0 failed: {package.name} with {given.python}")


if __name__ == "__main__":
    main()
