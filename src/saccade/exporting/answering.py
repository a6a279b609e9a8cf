"""A stand-alone program: it runs an exported file on images that arrive through a pipe.

It runs in a fresh process and imports nothing of this package, like the programs that will use the
file. It first writes what the file says of itself, as JSON. Arrays arrive on standard input, one
after another. For each it writes the logits, float32 (B, C), and the seconds that they took to
standard output. The arguments are the kind of the file, its path and the number of threads.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]
Answer = Callable[[Array], Array]
Opened = tuple[Answer, str]
"""What runs a file, and what the file says of itself: JSON, empty where it says nothing."""

METADATA = "saccade"
SAID_BY_TIMM = (
    "label_names",
    "num_classes",
    "input_size",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "mean",
    "std",
)
"""What of a network's configuration is used when timm classifies with it."""


def send(stream: IO[bytes], array: Any) -> None:
    """Write an array after its length in bytes: NumPy reads and writes files, not pipes."""
    held = io.BytesIO()
    np.save(held, np.ascontiguousarray(array), allow_pickle=False)
    stream.write(len(held.getvalue()).to_bytes(8, "little") + held.getvalue())
    stream.flush()


def receive(stream: IO[bytes]) -> Array | None:
    """Return the next array, of any shape ``(...)``, or None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    body = io.BytesIO(stream.read(int.from_bytes(head, "little")))
    array: Array = np.load(body, allow_pickle=False)
    return array


def onnx(path: str, threads: int) -> Opened:
    """Return a function that runs an ONNX file: images (B, ...) in, logits (B, C) out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    said = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    return lambda images: session.run(None, {name: images})[0], said


def pt2(path: str, threads: int) -> Opened:
    """Return a function that runs a file of torch.export: images (B, ...) in, logits (B, C) out."""
    import torch

    extra = {f"{METADATA}.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    return _asked(module, threads), extra[f"{METADATA}.json"]


def timm(path: str, threads: int) -> Opened:
    """Return a function that runs a folder of timm: images (B, 3, S, S) in, logits (B, C) out."""
    from timm import create_model

    network: Any = create_model(f"local-dir:{path}", pretrained=True).eval()
    said = {name: network.pretrained_cfg.get(name) for name in SAID_BY_TIMM}
    return _asked(network, threads), json.dumps(said)


def pickle(path: str, threads: int) -> Opened:
    """Return a function that runs a pickled module: images (B, ...) in, logits (B, C) out.

    Only a file that was written a moment ago is read in this way.
    """
    import torch

    return _asked(torch.load(path, weights_only=False), threads), ""


def snippet(path: str, _threads: int) -> Opened:
    """Return the reading function of a program ``classify.py``: the bytes of a file, uint8 (n,),
    in; the input of its ONNX file, (1, ...), out.
    """
    import runpy

    read = runpy.run_path(path)["pixels_of"]
    return lambda data: read(io.BytesIO(data.tobytes())), ""


def _asked(module: Any, threads: int) -> Answer:
    import torch

    torch.set_num_threads(threads)

    def answer(images: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).float().numpy())

    return answer


def main() -> None:
    """Answer until standard input ends."""
    kind, path, threads = sys.argv[1:]
    # what libraries print must not get among the answers
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    kinds = {"onnx": onnx, "pt2": pt2, "timm": timm, "pickle": pickle, "snippet": snippet}
    answer, said = kinds[kind](path, int(threads))
    send(out, np.frombuffer(said.encode(), np.uint8))
    while (images := receive(sys.stdin.buffer)) is not None:
        begun = time.perf_counter()
        logits = answer(images)
        seconds = time.perf_counter() - begun
        send(out, np.asarray(logits, np.float32))
        send(out, np.float64(seconds))


if __name__ == "__main__":
    main()
