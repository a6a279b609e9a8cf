"""The toy images and the undisturbed reference run, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make_images(tmp_path_factory.mktemp("toy") / "waves")


@pytest.fixture(scope="session")
def reference(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    attempt = toy.run(toy.command(images, out))
    assert attempt.status == 0, attempt.stderr
    return out


@pytest.fixture(scope="session")
def half_done(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run killed after its step 37, whose newest checkpoint (35) lies inside an epoch.

    Tests work on copies.
    """
    out = tmp_path_factory.mktemp("half") / "run"
    toy.signal_after_step(toy.command(images, out), out, 37)
    return out
