"""The utilisation of a GPU: the fraction of its peak that a training uses."""

from __future__ import annotations

FLOP_PER_MAC = 2
PASSES = 3
"""Of a training step: one forward, and two for the gradients of inputs and weights."""

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A40": 150.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense 16-bit products, added up in fp32, in 10^12 a second, by what the name of a GPU contains.

The first one counts.

*Source:* NVIDIA's data sheets, without sparsity.
"""


def peak_flops(gpu: str) -> float | None:
    """Return the 16-bit operations that a GPU, given its name, can do in a second.

    None for an unknown one.
    """
    return next((tflops * 1e12 for name, tflops in PEAK_TFLOPS.items() if name in gpu), None)


def mfu(macs: float, images_per_s: float, gpus: list[str]) -> float | None:
    """Return the model's FLOP utilisation of all GPUs together, 0..1.

    None where one of them is unknown.

    ``macs`` are the multiply-accumulates of one image's forward pass. What is computed twice, as in
    checkpointing, does not count. *Source:* Chowdhery et al. 2022, "PaLM", appendix B.
    """
    peaks = [peak_flops(gpu) for gpu in gpus]
    known = [peak for peak in peaks if peak is not None]
    if not known or len(known) < len(peaks):
        return None
    return FLOP_PER_MAC * PASSES * macs * images_per_s / sum(known)
