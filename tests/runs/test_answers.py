"""Answers in files are scored without a network: softmax and labels as arrays of NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import saccade
from console import run_here
from saccade.errors import DataError, UsageError


def written(folder: Path, softmax: np.ndarray, labels: np.ndarray) -> Path:  # type: ignore[type-arg]
    folder.mkdir(exist_ok=True)
    np.save(folder / "resnet50_softmax.npy", softmax)
    np.save(folder / "labels.npy", labels)
    return folder / "resnet50_softmax.npy"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.spec(44)
def test_a_softmax_file_of_others_gives_its_accuracy_and_loss(kind: type, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    shares = draws.dirichlet(np.full(7, 0.3), 5000).astype(kind)
    labels = draws.integers(0, 7, 5000)
    file = written(tmp_path, shares, labels)
    result = saccade.evaluate(file)

    # the judge is NumPy: the sort is stable, so of equal shares the first one leads
    order = np.argsort(-shares.astype(np.float64), axis=1, kind="stable")
    assert result.top1 == (order[:, 0] == labels).mean()
    assert result.top5 == (order[:, :5] == labels[:, None]).any(1).mean()
    known = shares[np.arange(5000), labels].astype(np.float64)
    known = np.maximum(known / shares.astype(np.float64).sum(1), np.finfo(np.float64).tiny)
    assert result.loss == pytest.approx(-np.log(known).mean(), 1e-5)
    assert result.n == 5000 and result.logits.shape == (5000, 7)


def test_answers_of_a_split_are_scored_and_the_validation_split_first(tmp_path: Path) -> None:
    file = written(tmp_path, np.eye(4, dtype=np.float32), np.array([0, 1, 0, 3]))
    (tmp_path / "names.csv").write_text("row,split,path\n0,train,a\n1,train,b\n2,val,c\n3,val,d\n")
    for words, top1, n in (((), 0.5, 2), (("--split", "train"), 1.0, 2)):
        done = run_here("eval", str(file), *words, "--json")
        assert done.status == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["top1"], found["n"]) == (top1, n)
    with pytest.raises(UsageError, match="no split 'test'; found: train, val"):
        saccade.evaluate(file, split="test")
    with pytest.raises(UsageError, match="predictions, not weights"):
        saccade.evaluate(file, data="digits")


@pytest.mark.parametrize(
    ("softmax", "labels", "said"),
    [
        (np.full((3, 2), 4.0), [0, 1, 1], "row 0 is not a softmax: its numbers sum to 8"),
        (np.array([[1.5, -0.5], [0.5, 0.5]]), [0, 1], "row 0 is not a softmax"),
        (np.array([[0.5, 0.5], [np.nan, 0.5]]), [0, 1], "row 1 is not a softmax"),
        (np.full((3, 2), 0.5), [0, 1, 2], "other classes than the predictions"),
        (np.full((3, 2), 0.5), [0, 1, -1], "other classes than the predictions"),
        (np.full((3, 2), 0.5), [0, 1], "do not fit labels"),
        (np.full((3, 2), 0.5), [0.0, 1.0, 1.0], "do not fit labels"),
        (np.full((0, 2), 0.5), np.zeros(0, np.int64), "do not fit labels"),
    ],
)
def test_what_is_no_answer_is_said(
    softmax: np.ndarray,  # type: ignore[type-arg]
    labels: object,
    said: str,
    tmp_path: Path,
) -> None:
    file = written(tmp_path, softmax, np.array(labels))
    with pytest.raises(DataError, match=said):
        saccade.evaluate(file)


def test_broken_arrays_and_lost_labels_are_said(tmp_path: Path) -> None:
    file = written(tmp_path, np.eye(2), np.array([0, 1]))
    np.save(file, np.array([{}]), allow_pickle=True)  # numbers alone are read
    with pytest.raises(DataError, match="cannot be read"):
        saccade.evaluate(file)
    file = written(tmp_path, np.eye(2), np.array([0, 1]))
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(DataError, match="cannot be read") as caught:
        saccade.evaluate(file)
    assert "labels.npy" in str(caught.value)
