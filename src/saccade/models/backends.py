"""Networks of other libraries by name: ``timm:NAME`` and ``torchvision:NAME``.

The only module that imports ``timm`` or ``torchvision.models``, and only when such a name is used.
They are trained, evaluated and saved like ours, with two differences: their weights come from
torch's generator, seeded from the run's seed, so they depend on the version of torch; and their
strides and patches are fixed.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade import rng
from saccade.errors import CheckpointError, ConfigError
from saccade.models import hub
from saccade.models.parts.registry import Builder, Entry, Options, register_grammar
from saccade.models.weights.preprocessing import Preprocessing, interpolation
from saccade.rng import Purpose

SMALLEST = 8
COLOURS = 3
AUX_WEIGHTS = {"googlenet": 0.3, "inception_v3": 0.4}
"""Weight of auxiliary losses. *Source:* Szegedy et al. 2015, section 5.

For Inception v3 torchvision's recipe.
"""
UNDECAYED = ("class_token", "pos_embedding", "relative_position_bias_table")


def is_backend(name: str) -> bool:
    """Tell whether a name asks for a network of another library."""
    return name.partition(":")[0].lower() in _LIBRARIES


def names(pattern: str) -> list[str]:
    """Return the networks of a library that match a pattern such as ``timm:vit_*``."""
    library, _, wanted = pattern.partition(":")
    known = _LIBRARIES[library.lower()].names()
    return [f"{library.lower()}:{n}" for n in known if fnmatch.fnmatchcase(n, wanted)]


def preprocessing(name: str) -> Preprocessing | None:
    """Return the preprocessing that the published weights of ``timm:NAME`` or ``torchvision:NAME``
    expect.

    Nothing is downloaded. None if the library does not say it for RGB images.
    """
    library, _, wanted = name.partition(":")
    return _LIBRARIES[library.lower()].preprocessing(wanted)


def pretrained(name: str) -> dict[str, Tensor]:
    """Fetch the published weights of ``timm:NAME`` or ``torchvision:NAME``, tensors of any shape
    ``(...)`` by name, from the cache or the network.

    Raises ConfigError if there is no such network, CheckpointError if its weights are not
    available.
    """
    library, _, wanted = name.partition(":")
    source = _LIBRARIES[library.lower()]
    source.check(wanted.partition(".")[0])
    try:
        with torch.random.fork_rng(devices=[]):
            return source.fetch(wanted)
    # there are as many ways to fail as there are layers between here and a distant server
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"the weights of {name} cannot be loaded: {reason}",
            where=name,
            fix=(
                "this needs a network connection or the library's cache; or use a downloaded "
                f".safetensors or .pth file instead, with --model {name.partition('.')[0]}"
            ),
        ) from error


def timm_state(name: str, num_classes: int, **arguments: Any) -> dict[str, Tensor] | None:
    """Return the state of timm's network of a name, tensors of any shape ``(...)`` without memory.

    ``arguments`` build it. None if timm has no such network, or refuses them. Raises ConfigError if
    timm is missing.
    """
    timm = _timm()
    if not timm.is_model(name):
        return None
    try:
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=num_classes, **arguments)
    except (TypeError, ValueError, AssertionError):
        return None
    state: dict[str, Tensor] = network.state_dict()
    return state


def checkpoint_blocks(model: nn.Module, name: str) -> None:
    """Let a network recompute its blocks in the backward pass.

    Raises ConfigError when it cannot.
    """
    switch = getattr(model, "set_grad_checkpointing", None)
    if switch is None:
        raise ConfigError(
            f"{name} cannot recompute its blocks", where="model.checkpointing", fix="remove it"
        )
    switch(True)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            "timm is not installed", where="timm:...", fix="pip install timm"
        ) from error
    return timm


def _timm_names() -> list[str]:
    return list(_timm().list_models())


def _timm_entry(name: str) -> Entry:
    if "." in name:
        raise ConfigError(
            f"'{name}' names weights, but --model starts from random weights",
            where=f"timm:{name}",
            fix=(
                f"use --model timm:{name.partition('.')[0]}, or --init timm:{name} to start from "
                "these weights"
            ),
        )

    timm = _timm()
    facts = timm.get_pretrained_cfg(name)
    side = facts.input_size[-1] if facts and facts.input_size else 224
    source = f"timm {timm.__version__}"
    return foreign_entry(
        f"timm:{name}",
        lambda options: _build_timm(name, options),
        family="timm",
        source=source,
        image_size=side,
    )


def _build_timm(name: str, options: Options) -> nn.Module:
    timm = _timm()
    asked = {"drop_rate": options.dropout, "drop_path_rate": options.drop_path}
    fixed = {"num_classes": options.num_classes, "in_chans": options.in_channels}
    # what some networks take and others refuse: `made` leaves out what is refused
    offered = {"img_size": options.image_size, "dynamic_img_size": True, "strict_img_size": False}
    model = made(
        lambda **more: timm.create_model(name, **fixed, **more), f"timm:{name}", asked, offered
    )
    if hasattr(model, "no_weight_decay"):
        # timm knows which tables of its networks are not to be decayed
        model.no_decay = tuple(model.no_weight_decay())  # type: ignore[assignment,operator]
    return model


def _fetch_timm(name: str) -> dict[str, Tensor]:
    timm = _timm()
    with hub.within_reach():
        model = timm.create_model(name, pretrained=True)
    state: dict[str, Tensor] = model.state_dict()
    return state


def _timm_preprocessing(name: str) -> Preprocessing | None:
    facts = _timm().get_pretrained_cfg(name)
    if not facts or len(facts.mean) != COLOURS or len(facts.std) != COLOURS:
        return None
    side = (facts.test_input_size or facts.input_size)[-1]
    crop = min(facts.test_crop_pct or facts.crop_pct, 1.0)
    # timm rounds the short side down
    crop = side / math.floor(side / crop)
    colours = tuple(facts.mean), tuple(facts.std)
    return Preprocessing(*colours, side, crop, interpolation(facts.interpolation))


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def _torchvision_entry(name: str) -> Entry:
    import torchvision

    side = 299 if name == "inception_v3" else 224
    source = f"torchvision {torchvision.__version__}"
    return foreign_entry(
        f"torchvision:{name}",
        lambda options: _build_torchvision(name, options),
        family="torchvision",
        source=source,
        image_size=side,
    )


def _build_torchvision(name: str, options: Options) -> nn.Module:
    from torchvision import models

    if options.in_channels != 3:
        raise ConfigError(
            f"torchvision:{name} accepts colour images only",
            where="in_channels",
            fix=f"use timm:{name}",
        )
    asked = {"dropout": options.dropout, "stochastic_depth_prob": options.drop_path}
    side = options.image_size
    offered: dict[str, Any] = {"image_size": side, "input_size": (side, side)}
    if name in AUX_WEIGHTS:
        offered["init_weights"] = True  # said, or it warns that the default will change
    fixed = {"weights": None, "num_classes": options.num_classes}
    model = made(
        lambda **more: models.get_model(name, **fixed, **more),
        f"torchvision:{name}",
        asked,
        offered,
    )
    model.aux_weight = AUX_WEIGHTS.get(name, 0.0)  # type: ignore[assignment]
    model.no_decay = tuple(  # type: ignore[assignment]
        n for n, _ in model.named_parameters() if n.rpartition(".")[2] in UNDECAYED
    )
    return model


def _torchvision_preprocessing(name: str) -> Preprocessing | None:
    from torchvision import models

    transform = models.get_model_weights(name)["DEFAULT"].transforms()
    side = transform.crop_size[0]
    crop = side / max(transform.resize_size[0], side)
    colours = tuple(transform.mean), tuple(transform.std)
    return Preprocessing(*colours, side, crop, interpolation(transform.interpolation.value))


def _fetch_torchvision(name: str) -> dict[str, Tensor]:
    from torchvision import models

    weights = models.get_model_weights(name)["DEFAULT"]
    # what it fetches is said on standard output, which belongs to results
    with contextlib.redirect_stdout(sys.stderr):
        stored = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    return {
        # names of old published DenseNets, which torchvision itself changes when it loads them
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", n): t
        for n, t in stored.items()
    }


@dataclass(frozen=True, slots=True)
class _Library:
    name: str
    names: Callable[[], list[str]]
    entry: Callable[[str], Entry]
    fetch: Callable[[str], dict[str, Tensor]]
    preprocessing: Callable[[str], Preprocessing | None]

    def check(self, wanted: str) -> None:
        """Raise ConfigError with the nearest names unless the library has such a network."""
        known = self.names()
        if wanted in known:
            return
        near = [
            f"{self.name}:{n}" for n in difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
        ]
        fix = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"`saccade models '{self.name}:*'` lists them"
        )
        raise ConfigError(f"{self.name} has no model '{wanted}'", where="--model", fix=fix)


_LIBRARIES = {
    "timm": _Library(
        "timm", _timm_names, _timm_entry, fetch=_fetch_timm, preprocessing=_timm_preprocessing
    ),
    "torchvision": _Library(
        "torchvision",
        _torchvision_names,
        _torchvision_entry,
        fetch=_fetch_torchvision,
        preprocessing=_torchvision_preprocessing,
    ),
}


def foreign_entry(
    name: str,
    build: Builder,
    *,
    family: str,
    source: str,
    image_size: int,
    smallest: int = SMALLEST,
) -> Entry:
    """Return the entry of a foreign network: seeded from torch's generator, with fixed strides."""

    def checked(options: Options) -> nn.Module:
        if options.strides or options.patch_size:
            raise ConfigError(
                f"the strides and patches of {name} are fixed",
                where="model.strides" if options.strides else "model.patch_size",
                fix="remove it, or use a network of Saccade (`saccade models`)",
            )
        return _seeded(lambda: build(options), options.seed)

    return Entry(
        name, checked, family=family, source=source, image_size=image_size, smallest=smallest
    )


def _seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build with torch's generator seeded, and restore the generator.

    A network that cannot be built without memory is emptied afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.integer(seed, Purpose.INIT))
        if torch.get_default_device().type != "meta":
            return build()
        try:
            return build()
        except NotImplementedError:  # an initialiser that looks at values
            with torch.device("cpu"):
                return build().to("meta")


def made(
    make: Callable[..., nn.Module],
    name: str,
    asked: dict[str, Any],
    offered: dict[str, Any],
    *,
    fix: str = "try another --image-size: many networks need a multiple of their patch or window",
) -> nn.Module:
    """Call a constructor with the arguments that the user set, and with those offered that it
    accepts.

    ``fix`` is the advice if it fails. Raises ConfigError if it does not accept the user's
    arguments, or cannot be built.
    """
    settings = {n: v for n, v in (offered | asked).items() if v is not None}
    while True:
        try:
            return make(**settings)
        except NotImplementedError:
            raise
        except Exception as error:  # any code may run here
            # Python names the argument that a constructor does not take; only a TypeError says so
            refused = next((n for n in settings if re.search(rf"'{n}'", str(error))), "")
            if not isinstance(error, TypeError) or not refused:
                raise ConfigError(
                    f"{name} cannot be built: {error}", where="--model", fix=fix
                ) from error
            if refused in asked:
                setting = "dropout" if refused in ("drop_rate", "dropout") else "drop_path"
                where = f"model.{setting}"
                raise ConfigError(
                    f"{name} does not accept {setting}", where=where, fix="remove it"
                ) from error
            del settings[refused]


def _resolve(match: re.Match[str]) -> Entry:
    library, name = _LIBRARIES[match["library"]], match["name"]
    library.check(name.partition(".")[0])
    return library.entry(name)


register_grammar(rf"(?P<library>{'|'.join(_LIBRARIES)}):(?P<name>.+)", _resolve)
