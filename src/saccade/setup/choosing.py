"""Every automatic choice of a run, made once."""

from __future__ import annotations

from dataclasses import replace

import torch

from saccade.config.fields import AUTO
from saccade.config.schema import Config
from saccade.device import choose, precision
from saccade.errors import ConfigError
from saccade.models import is_registered
from saccade.optim import optimizers as optim
from saccade.training.checkpoint import Saved
from saccade.training.choices import LENGTH_AS_SET, Choice, Choices
from saccade.training.run import image_macs

# below it one thread is faster than several: docs/LOG.md, 2026-11-20
TINY_CELL_MACS = 1e9


def decide(config: Config, saved: Saved | None, local_rank: int = 0) -> Choices:
    """Make every automatic choice, each with its reason.

    The choices of an earlier attempt are kept. Only the device may change between attempts: what
    depends on it is then chosen again. Raises ConfigError for devices that this machine does not
    have.
    """
    kind, device_reason = choose.pick_device(config.device, local_rank)
    device = torch.device(kind)

    earlier = saved.meta["resolved"] if saved else {}
    # choices of another kind of device mean nothing here
    if earlier and earlier["device"]["value"] != kind:
        earlier = {}

    # what this device can compute is asked only where nothing was chosen before
    if earlier:
        number_format = Choice.parse(earlier["precision"], str)
    else:
        number_format = Choice(*precision.choose(config.precision, device))

    choices = Choices(
        device=Choice(kind, device_reason),
        precision=number_format,
        optimizer=Choice(*optim.flavour(config.optimizer, device)),
        deterministic=Choice(True, _cost_of_exactness(kind)),
        compute_threads=_compute_threads(config, kind),
        reader_threads=_reader_threads(config),
        layout=Choice("channels_last", "fastest for convolutions"),
        # the trial decides about compiling: it has to be timed
        compile=Choice(False, "does not help on a CPU" if kind == "cpu" else "not tried"),
    ).overridden_by(earlier)
    # the length is no matter of the device: it stays on another one, too
    return replace(choices, length=_length(config, saved))


def _length(config: Config, saved: Saved | None) -> Choice[str]:
    """Return the fitted length of an earlier attempt; the trial chooses that of a new run.

    Raises ConfigError if the earlier attempt had another time, or none.
    """
    if saved is None or config.epochs != AUTO:
        return LENGTH_AS_SET
    length = saved.meta["resolved"].get("length")
    if length and saved.meta["config"].get("within") == config.within:
        return Choice.parse(length, str)
    raise ConfigError(
        f"{saved.path.name} belongs to a run of another length, and a resumed run cannot be "
        "fitted into a time again",
        where=f"--within {config.within}",
        fix="set the length with --epochs and --resume-changed, or start a new run with "
        "`--resume never`",
        finding="run-changed",
    )


def _cost_of_exactness(device: str) -> str:
    """Return why deterministic kernels are switched on."""
    if device == "cuda":
        return "costs less than 1 % on a GPU"
    return f"a {device.upper()} needs no special setting"


def _compute_threads(config: Config, device: str) -> Choice[int]:
    """Return how many threads compute. Work of a few milliseconds is faster on one thread."""
    threads = torch.get_num_threads()
    usual = Choice(threads, "one per physical core")
    name = config.model.name
    # MACs are reckoned from a name; a network that was handed over has none that says it
    if device != "cpu" or name.startswith("custom:") or is_registered(name):
        return usual

    macs = image_macs(config) * config.cell
    if macs < TINY_CELL_MACS:
        return Choice(1, f"a cell needs only {macs / 1e9:.2g} GMAC")
    return usual


def _reader_threads(config: Config) -> Choice[int]:
    """Return how many threads read images; the trial before training can choose fewer."""
    if config.data.threads:
        return Choice(config.data.threads, "as set")
    return Choice(max(2, min(torch.get_num_threads(), 16)), "one per core, 2 to 16")
