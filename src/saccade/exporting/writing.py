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
from saccade.exporting import folder, int8, parity, proof, trained_int8
from saccade.exporting.answers import asking
from saccade.exporting.card import card
from saccade.exporting.facts import facts
from saccade.exporting.folder import CARD, RECEIPT
from saccade.exporting.formats import FORMATS, Material
from saccade.exporting.int8 import Int8
from saccade.exporting.outputs import Outputs
from saccade.exporting.own import Own
from saccade.exporting.proof import Exam
from saccade.exporting.snippet import SNIPPETS, in_short, snippet, snippet_name
from saccade.exporting.whole import Input
from saccade.models.weights import stored

_KNOWN = (*SNIPPETS, *(kind.name for kind in FORMATS.values()), int8.FILE)


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
    """Write a network as files for other programs, each checked on a split; return the receipt.

    ``origin`` says where the weights come from; the receipt, ``export.json``, holds it. ``run``
    holds the facts of its run for the model card, and is empty without a run. A file gets its name
    after it has answered the images of the split, in a separate process, as the network does;
    until then an older file stays. ``in_8_bits`` asks for an additional 8-bit copy of the ONNX
    file. Raises ExportError if a file answers differently or loses too much.
    """
    _require_finite(classifier)
    classifier.network.cpu().float()
    recipe, material = classifier.recipe, Material.of(classifier, given)
    receipt: dict[str, Any] = {
        "from": dict(origin),
        "run_result": run.get("result"),
        "threads": torch.get_num_threads(),
        **_about(material, formats),
    }

    written = _names(formats, in_8_bits, snippet_name(recipe))
    folder.require_own(out, [*written, RECEIPT])

    with files.locked(out), files.staging(out) as aside, determinism.put_back():
        readers = Readers(max(2, receipt["threads"]))
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
        text = card(recipe, receipt, run).encode("utf-8", "backslashreplace")
        receipt["card_sha256"] = hashlib.sha256(text).hexdigest()
        files.write_bytes(aside / CARD, text)
        if "onnx" in formats:
            receipt["pixels"] = _with_snippet(aside, material, split)

        folder.keep_edited(out, text)
        for name in written:
            files.move_in(aside / name, out / name)
        # last: it has the digests of the others
        files.write_json(out / RECEIPT, receipt)
        folder.tell_others(out, written, _KNOWN)
    return receipt


def _about(material: Material, formats: Sequence[str]) -> dict[str, Any]:
    """Return how the files are used."""
    given = material.whole.given
    about = {"input": given, **material.facts}
    if "onnx" in formats:
        about["snippet"] = in_short(material.classifier.recipe, given, material.facts)
    return about


def _names(formats: Sequence[str], in_8_bits: Int8 | None, program: str) -> list[str]:
    """Return what is written, in this order; the receipt follows."""
    names = [CARD, *[program] * ("onnx" in formats), *(FORMATS[one].name for one in formats)]
    return names + [int8.FILE] * (in_8_bits is not None)


def _with_snippet(aside: Path, material: Material, split: Split) -> dict[str, dict[str, float]]:
    """Write the program into the folder ``aside``; return how far its pixels are from ours."""
    recipe, given = material.classifier.recipe, material.whole.given
    program = aside / snippet_name(recipe)
    files.write_bytes(program, snippet(recipe, given).encode())
    pixels = decode.decode(split.read(0), exif=recipe.exif)
    return parity.require_same_pixels(program, recipe, pixels, given)


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
        noun = Outputs.of(exam.classifier.recipe).noun
        proof.require_said(ask.said, kind.says(material), noun)
        found = exam.of(ask)
    proof.require_equal(found, exam)
    _require_as_written(path, said["sha256"])
    return {**said, **found.to_json()}


def _require_as_written(path: Path, digests: Mapping[str, str]) -> None:
    """Raise ExportError if the bytes of a file or folder are not those that were written."""
    for name, digest in digests.items():
        if files.digest(path / name if path.is_dir() else path) != digest:
            raise ExportError(
                f"the bytes of {name} changed after it was written",
                fix="nothing was written; check the disk, and export again",
            )


def _quantised(how: Int8, exam: Exam, aside: Path) -> dict[str, Any]:
    """Write the 8-bit file from the ONNX file in the folder ``aside``, and check it as `_proved`
    does.
    """
    data, more = how.made((aside / FORMATS["onnx"].name).read_bytes(), exam)
    path = aside / int8.FILE
    files.write_bytes(path, data)

    exam = replace(exam, batch_limit=int8.BATCH_LIMIT)
    with asking("onnx", path, torch.get_num_threads()) as ask:
        proof.require_said(ask.said, facts(exam.classifier.recipe, exam.given))
        found = exam.of(ask)
    digests = {path.name: hashlib.sha256(data).hexdigest()}
    _require_as_written(path, digests)
    return {
        "file": path.name,
        "bytes": len(data),
        "sha256": digests,
        **more,
        **how.judged(found, exam),
        **found.to_json(),
    }
