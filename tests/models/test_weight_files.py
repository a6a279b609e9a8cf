"""Files of weights: every kind is read, none runs code, damage and bombs are refused."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from small_networks import equal, state_of
from torch import nn

from saccade.errors import CheckpointError
from saccade.models import create_model, load_weights


@pytest.mark.parametrize("form", ["pth", "legacy", "safetensors"])
def test_files_of_every_kind_are_read(form: str, tmp_path: Path) -> None:
    model = create_model("resnet8", num_classes=10)
    state = state_of(model)
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        safetensors.torch.save_file(state, file)
    else:
        options = argparse.Namespace(lr=0.1, model="resnet8")
        tree = {
            "state_dict": state,
            "args": options,
            "output": Path("runs/1"),
            "best_acc1": np.float64(71.0),
            "epoch": np.int64(3),
        }
        torch.save(tree, file, _use_new_zipfile_serialization=form == "pth")
    assert load_weights(model, file).source.startswith(str(file))
    assert equal(model, state)


class Harmful:
    """A pickle of this runs a command when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


@pytest.mark.fault("F1")
def test_a_file_that_needs_code_is_refused_unread_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = create_model("resnet8", num_classes=10)
    torch.save(model, tmp_path / "whole.pth")
    torch.save({"state_dict": state_of(model), "extra": Harmful()}, tmp_path / "bomb.pth")
    with open(tmp_path / "pickle.pth", "wb") as file:
        pickle.dump(Harmful(), file, protocol=4)
    for name in ("whole.pth", "bomb.pth", "pickle.pth"):
        with pytest.raises(CheckpointError, match="program") as caught:
            load_weights(model, tmp_path / name)
        assert "torch.save(model.state_dict()" in caught.value.fix and name in caught.value.where
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "content", [b"", b"hello\n" * 9, b"PK\x03\x04" + bytes(50), b"\x80\x02}q\x00."]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_weights(create_model("resnet8", num_classes=10), file)
    assert caught.value.where == str(file) and caught.value.status == 66
    with pytest.raises(CheckpointError, match="no weights at this path"):
        load_weights(create_model("resnet8", num_classes=10), tmp_path / "nothing.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_was_cut_off_says_so(suffix: str, tmp_path: Path) -> None:
    model = create_model("resnet8", num_classes=10)
    file = tmp_path / f"w{suffix}"
    save: Any = torch.save if suffix == ".pth" else safetensors.torch.save_file
    save(state_of(model), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cut off or damaged") as caught:
        load_weights(model, file)
    assert "copy or download it again" in caught.value.fix


def test_a_small_file_whose_tables_lie_in_each_other_is_read_quickly(tmp_path: Path) -> None:
    model = create_model("resnet8", num_classes=10)
    shared: Any = {str(i): torch.zeros(1) for i in range(60)}
    for _ in range(4):
        shared = {str(i): shared for i in range(60)}
    state = state_of(model)
    torch.save(
        {"more": shared, "model": state, "names": {"model." * 3000 + "x": torch.zeros(1)}},
        tmp_path / "w.pth",
    )
    assert load_weights(model, tmp_path / "w.pth").source.endswith("[model]")
    assert equal(model, state)


def test_a_zip_that_would_unpack_to_more_than_it_has_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    packed = zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pth") as source, packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        load_weights(create_model("resnet8", num_classes=10), tmp_path / "bomb.pth")


@pytest.mark.fault("F2")
def test_a_tensor_that_claims_more_bytes_than_the_file_has_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(7)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as source,
        zipfile.ZipFile(tmp_path / "more.pth", "w") as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            # seven values become 2^31 - 1 in the storage and in the shape
            if name.endswith("data.pkl"):
                data = data.replace(b"K\x07", b"J\xff\xff\xff\x7f")
            target.writestr(name, data)
    with pytest.raises(CheckpointError):
        load_weights(nn.Linear(2, 2), tmp_path / "more.pth")


@pytest.mark.parametrize(
    "remark", ["[1]", "[" * 100_000, '{"classes": 3}', '{"classes": [1]}', "x"]
)
@pytest.mark.fault("F2")
def test_odd_facts_in_a_safetensors_file_are_refused(remark: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, file, {"saccade": remark})
    with pytest.raises(CheckpointError, match="not a valid saccade model") as caught:
        load_weights(create_model("resnet8", num_classes=10), file)
    assert str(file) in caught.value.where


def test_a_list_of_parts_is_no_program(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors.index.json"
    file.write_text('{"weight_map": {"fc.weight": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(CheckpointError, match="weights in several files"):
        load_weights(nn.Linear(2, 2), file)
