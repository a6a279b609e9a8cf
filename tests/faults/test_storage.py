"""FAULTS B1, B2, B3, F1, F3, C3: damaged, hostile and foreign checkpoints; threads."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import toy

from saccade import files, rng
from saccade.errors import CheckpointError
from saccade.training import checkpoint

FLIPS = 200
FILES = (
    "model.safetensors",
    "optimizer.safetensors",
    "ema.safetensors",
    "state.json",
    "manifest.json",
)


@pytest.fixture
def copy(half_done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(half_done, tmp_path / "run"))


def flip(path: Path, draw: float) -> None:
    data = bytearray(path.read_bytes())
    bit = int(draw * len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.fault("B1")
def test_every_flipped_bit_is_noticed(half_done: Path, tmp_path: Path) -> None:
    source = toy.checkpoints(half_done)[0]
    names = sorted(p.name for p in source.iterdir())
    assert names == sorted(FILES)
    sizes = [(source / n).stat().st_size for n in names]
    for case in range(FLIPS):
        which, place = rng.uniform(rng.key(case, 31), 2)
        name = names[case % len(names)] if which < 0.5 else names[sizes.index(max(sizes))]
        victim = Path(shutil.copytree(source, tmp_path / "checkpoint"))
        flip(victim / name, place)
        with pytest.raises(CheckpointError, match=r"digest|manifest|missing|bytes"):
            checkpoint.read(victim)
        shutil.rmtree(victim)


@pytest.mark.parametrize(
    "name", [FILES[0], *(pytest.param(n, marks=pytest.mark.full) for n in FILES[1:])]
)
@pytest.mark.fault("B1")
def test_resume_falls_back_past_a_flipped_bit_and_ends_identical(
    name: str, images: Path, reference: Path, copy: Path
) -> None:
    newest, older = toy.checkpoints(copy)[:2]
    flip(newest / name, 0.6)
    attempt = toy.run(toy.command(images, copy))
    assert attempt.status == 0, attempt.stderr
    assert "skipped a damaged checkpoint" in attempt.stderr and newest.name in attempt.stderr
    assert toy.resumed_at(copy) == [int(older.name.removeprefix("step_"))]
    assert list((copy / "checkpoints").glob(f"damaged-{newest.name}-*")), (
        "it must be set aside, not lost"
    )
    assert toy.digest(copy) == toy.digest(reference)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut in half", "one byte short", "emptied", "deleted"])
@pytest.mark.fault("B2")
def test_a_cut_or_missing_file_is_refused_by_name(name: str, damage: str, copy: Path) -> None:
    victim = toy.checkpoints(copy)[0]
    path = victim / name
    data = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(
            {"cut in half": data[: len(data) // 2], "one byte short": data[:-1], "emptied": b""}[
                damage
            ]
        )
    with pytest.raises(CheckpointError, match=name):
        checkpoint.read(victim)
    saved, errors = checkpoint.newest(copy / "checkpoints")
    assert saved is not None and saved.path == toy.checkpoints(copy)[1]
    assert [Path(e.where).name for e in errors] == [victim.name]


@pytest.mark.fault("B3")
def test_no_good_checkpoint_left_exits_66_and_does_not_start_over(images: Path, copy: Path) -> None:
    for folder in toy.checkpoints(copy):
        flip(folder / "model.safetensors", 0.5)
    before = toy.last_step(copy)
    attempt = toy.run_here(toy.command(images, copy))
    assert attempt.status == 66
    for folder in toy.checkpoints(copy):
        assert folder.name in attempt.stderr
    assert toy.last_step(copy) == before


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.spec(32)
@pytest.mark.fault("F1")
def test_a_pickle_in_a_checkpoint_is_never_executed(name: str, copy: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Canary(canary))
    victim = toy.checkpoints(copy)[0]
    (victim / name).write_bytes(bomb)
    if name != "manifest.json":  # the attacker repairs the manifest, too
        facts = json.loads((victim / "manifest.json").read_text())
        facts["files"][name] = {"bytes": len(bomb), "sha256": files.digest(victim / name)}
        (victim / "manifest.json").write_bytes(files.json_bytes(facts))
    with pytest.raises(CheckpointError):
        checkpoint.read(victim)
    assert not canary.exists()
    pickle.loads(bomb).close()
    assert canary.exists(), "the canary itself must work"


def republish(folder: Path, contents: dict[str, bytes]) -> None:
    shutil.rmtree(folder)
    files.publish_folder(folder, contents)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


@pytest.mark.fault("F3")
def test_a_checkpoint_with_a_renamed_layer_is_refused_with_both_names(
    images: Path, copy: Path
) -> None:
    newest = toy.checkpoints(copy)[0]
    contents = contents_of(newest)
    tensors = safetensors.torch.load(contents["model.safetensors"])
    tensors["stem.weight"] = tensors.pop("conv1.weight")
    contents["model.safetensors"] = safetensors.torch.save(tensors)
    republish(newest, contents)
    attempt = toy.run_here(toy.command(images, copy))
    assert attempt.status == 66
    assert (
        "conv1.weight is missing" in attempt.stderr
        and "stem.weight is only in the checkpoint" in attempt.stderr
    )


@pytest.mark.fault("F3")
def test_a_checkpoint_of_another_version_is_refused(copy: Path) -> None:
    newest = toy.checkpoints(copy)[0]
    contents = contents_of(newest)
    state = json.loads(contents["state.json"])
    contents["state.json"] = files.json_bytes(state | {"format": 0})
    republish(newest, contents)
    with pytest.raises(CheckpointError, match="an older version"):
        checkpoint.read(newest)


@pytest.mark.fault("F3")
def test_a_checkpoint_of_another_model_is_refused_with_the_difference(
    images: Path, copy: Path
) -> None:
    attempt = toy.run_here(toy.command(images, copy, "--model", "resnet8_x2"))
    assert attempt.status == 78 and "model.name: resnet8 -> resnet8_x2" in attempt.stderr
    attempt = toy.run_here(toy.command(images, copy, "--model", "resnet8_x2", "--resume-changed"))
    assert attempt.status == 66 and "float32[32, 3, 3, 3] here" in attempt.stderr


@pytest.mark.fault("C3")
def test_more_reading_threads_after_a_resume_change_nothing(
    images: Path, reference: Path, copy: Path
) -> None:
    assert toy.run_here(toy.command(images, copy, "--set", "data.threads=5")).status == 0
    assert toy.digest(copy) == toy.digest(reference)
