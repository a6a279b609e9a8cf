"""From a classifier to files: written to a temporary folder, checked, and only then named."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saccade import files
from saccade.data.images import decode
from saccade.data.readers import Readers
from saccade.data.sources import Split
from saccade.device import determinism
from saccade.errors import ExportError
from saccade.evaluation.classifier import Classifier
from saccade.exporting import int8, parity, proof, trained_int8
from saccade.exporting.answers import asking
from saccade.exporting.card import card
from saccade.exporting.facts import facts
from saccade.exporting.formats import FORMATS, Material
from saccade.exporting.int8 import Int8
from saccade.exporting.own import Own
from saccade.exporting.proof import Exam
from saccade.exporting.snippet import snippet
from saccade.exporting.whole import Input, Whole
from saccade.models.weights import stored

RECEIPT, SNIPPET, CARD = "export.json", "classify.py", "README.md"


def export(
    classifier: Classifier,
    split: Split,
    out: Path,
    *,
    formats: Sequence[str],
    given: Input = "uint8",
    origin: Mapping[str, Any],
    run: Mapping[str, Any],
    in_8_bits: Int8 | None = None,
) -> dict[str, Any]:
    """Write a classifier as files for other programs, each checked on a split; return the receipt.

    ``origin`` says where the weights come from; the receipt, ``export.json``, holds it. ``run``
    holds the facts of its run for the model card, and is empty without a run. A file gets its name
    after it has answered the images of the split, in a separate process, as the classifier does;
    until then an older file stays. ``in_8_bits`` asks for an additional 8-bit copy of the ONNX
    file. Raises ExportError if a file answers differently or loses too much.
    """
    _require_finite(classifier)
    classifier.network.cpu().float()
    material = Material(classifier, Whole(classifier, given), facts(classifier.recipe, given))
    threads = torch.get_num_threads()
    receipt: dict[str, Any] = {
        "from": dict(origin),
        "run_result": run.get("result"),
        "input": given,
        "threads": threads,
        **material.facts,
    }

    with files.locked(out), files.staging(out) as aside, determinism.put_back():
        readers = Readers(max(2, threads))
        try:
            # all of them first: one that cannot be made is refused before minutes of proofs
            made = {name: _made(name, material, aside) for name in formats}
            own = Own.of(classifier, split, readers)
            exam = trained_int8.asked(Exam(classifier, given, split, readers=readers, own=own))
            proved = {name: _proved(name, made[name], material, exam) for name in formats}
            if in_8_bits is not None:
                proved[int8.NAME] = _quantised(in_8_bits, exam, aside)
        finally:
            readers.close()

        receipt["files"] = proved
        beside = [CARD]
        files.write_bytes(aside / CARD, card(classifier.recipe, receipt, run).encode())
        if "onnx" in formats:
            files.write_bytes(aside / SNIPPET, snippet(classifier.recipe, given).encode())
            pixels = decode.decode(split.read(0), exif=classifier.recipe.exif)
            receipt["pixels"] = parity.require_same_pixels(
                aside / SNIPPET, classifier.recipe, pixels, given
            )
            beside.append(SNIPPET)
        for name in (*beside, *(fact["file"] for fact in proved.values())):
            files.move_in(aside / name, out / name)
        # last: it vouches for the others by their digests
        files.write_json(out / RECEIPT, receipt)
    return receipt


def _require_finite(classifier: Classifier) -> None:
    """Raise ExportError if a weight is NaN or infinite; buffers of a network may be."""
    name = stored.first_not_finite(dict(classifier.network.named_parameters()))
    if name:
        raise ExportError(
            f"the weights are broken: {name} holds NaN or infinity",
            where=f"a network {classifier.recipe.model}",
            fix="take weights from before they broke, such as --best",
        )


def _made(name: str, material: Material, aside: Path) -> tuple[Path, dict[str, Any]]:
    """Write a file into the folder ``aside``; return its path and its entry in the receipt."""
    kind = FORMATS[name]
    contents, more = kind.make(material)
    path = aside / kind.name
    if list(contents) == [kind.name]:
        files.write_bytes(path, contents[kind.name])
    else:
        files.publish_folder(path, contents)
    return path, {
        "file": kind.name,
        "bytes": sum(map(len, contents.values())),
        "sha256": {n: hashlib.sha256(data).hexdigest() for n, data in contents.items()},
        **more,
    }


def _proved(
    name: str, made: tuple[Path, dict[str, Any]], material: Material, exam: Exam
) -> dict[str, Any]:
    """Check a file that was written, and return its whole entry in the receipt."""
    kind, (path, said) = FORMATS[name], made
    exam = replace(exam, given=kind.takes or exam.given)
    with kind.asked(material, path, torch.get_num_threads()) as ask:
        found = exam.of(ask)
    proof.require_equal(found, exam)
    return {**said, **found.to_json()}


def _quantised(how: Int8, exam: Exam, aside: Path) -> dict[str, Any]:
    """Write the 8-bit file from the ONNX file in the folder ``aside``, and check it as `_proved`
    does.
    """
    data, more = how.made((aside / FORMATS["onnx"].name).read_bytes(), exam)
    path = aside / int8.FILE
    files.write_bytes(path, data)

    exam = replace(exam, batch_limit=int8.BATCH_LIMIT)
    with asking("onnx", path, torch.get_num_threads()) as ask:
        found = exam.of(ask)
    return {
        "file": path.name,
        "bytes": len(data),
        "sha256": {path.name: hashlib.sha256(data).hexdigest()},
        **more,
        **how.judged(found, exam),
        **found.to_json(),
    }
