"""The exported whole: preprocessing, views and the network as one module."""

from __future__ import annotations

import copy
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from saccade.data.augment.mix import scale_and_shift
from saccade.errors import ExportError
from saccade.evaluation.classifier import Classifier, Recipe
from saccade.evaluation.views import views
from saccade.exporting import qdq
from saccade.exporting.outputs import Outputs
from saccade.models.parts.embedding import embed

Input = Literal["uint8", "image", "float"]
INPUTS: tuple[Input, ...] = get_args(Input)


class Whole(nn.Module):
    """A network from pixels to logits or features, float32 (B, k), in a form that a graph can hold.

    ``given`` is its input: ``uint8``, RGB images of the final size, uint8 (B, S, S, 3); ``image``,
    one RGB image of any size, uint8 (1, H, W, 3), which it resizes and crops itself; or ``float``,
    the network's input, float32 (B, 3, S, S), normalised. Logits are the mean over the views with
    which the classifier is evaluated.
    """

    def __init__(self, classifier: Classifier, given: Input) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.recipe, self.given = classifier.recipe, given
        self.encodes = Outputs.of(classifier.recipe).are_features
        if given == "image" and self.recipe.interpolation != "bilinear":
            # a graph does not cut off between its two passes what the cubic filter overshoots
            raise ExportError(
                f"a file that resizes images itself cannot do it by {self.recipe.interpolation} "
                "interpolation, as these weights expect",
                where="--input image",
                fix="use --input uint8: classify.py beside the file resizes",
            )
        # Graphs of channels_last tensors are full of as_strided. Attention of Swin cannot be
        # decomposed while its parameters want gradients.
        network = copy.deepcopy(classifier.network).cpu().float()
        network = network.to(memory_format=torch.contiguous_format).eval()
        self.network = qdq.stored(network) if qdq.is_quantized(network) else network
        # kept as buffers: what normalisation holds in a cache would be a tensor of the capture
        mean, std = colours_seen(self.recipe)
        scale, shift = scale_and_shift(mean, std, torch.device("cpu"))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map the input, see the class, to logits or features, float32 (B, k)."""
        recipe = self.recipe
        if self.given != "float":
            images = images.permute(0, 3, 1, 2)
            if self.given == "image":
                images = _square(images.float(), recipe)
            if recipe.channels == "bgr":
                images = images.flip(1)
            images = torch.addcmul(self.shift, images.float(), self.scale)
        images = images.contiguous()
        if self.encodes:
            return embed(self.network, images).float()
        if recipe.eval_views == 1:
            return cast(Tensor, self.network(images).float())
        # One call for all views: a norm folds only into weights that are used once in the graph.
        logits = self.network(torch.cat(list(views(images, recipe.eval_views)))).float()
        return cast(Tensor, logits.unflatten(0, (recipe.eval_views, -1)).mean(0))

    @property
    def width(self) -> int:
        """The number of outputs of an image."""
        with torch.inference_mode():
            return int(self(self.example()).shape[1])

    def example(self) -> Tensor:
        """Return zeros as an example input, (2, ...) or one image, (1, H, W, 3)."""
        side = self.recipe.eval_side
        if self.given == "image":
            return torch.zeros(1, side * 2 + 1, side * 3 + 1, 3, dtype=torch.uint8)
        if self.given == "uint8":
            return torch.zeros(2, side, side, 3, dtype=torch.uint8)
        return torch.zeros(2, 3, side, side)


def colours_seen(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation in the channel order of the network."""
    step = -1 if recipe.channels == "bgr" else 1
    return recipe.mean[::step], recipe.std[::step]


def _square(images: Tensor, recipe: Recipe) -> Tensor:
    """Return images, float32 (1, 3, H, W) in levels, as the square input of the network.

    It follows `saccade.data.images.fit` except for the rounding between its two passes: a value may
    differ by one level. All sizes are integer formulas, which hold in a graph for any H and W.
    """
    side, fit = recipe.eval_side, recipe.framing
    height, width = images.shape[-2:]
    if fit.how == "squash":
        return _resized(images, side, side)

    if fit.how == "pad":
        long = _most(height, width)
        new_height, new_width = _nearest(side * height, long), _nearest(side * width, long)
        resized = _resized(images, new_height, new_width)
        fill = torch.tensor(fit.fill, dtype=images.dtype).view(1, 3, 1, 1)
        left, top = (side - new_width) // 2, (side - new_height) // 2
        around = (left, side - new_width - left, top, side - new_height - top)
        # zeros around, and the colour added back
        return functional.pad(resized - fill, around) + fill

    short = fit.short_side(side)
    least = _least(height, width)
    new_height, new_width = short * height // least, short * width // least
    resized = _resized(images, new_height, new_width)
    top, left = _half(new_height - side), _half(new_width - side)
    return resized[:, :, top : top + side, left : left + side]


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    resized = functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255)


def _least(one: int, other: int) -> int:
    return cast(int, torch.sym_min(one, other))  # a number of a graph behaves as one


def _most(one: int, other: int) -> int:
    return cast(int, torch.sym_max(one, other))


def _half(number: int) -> int:
    """Return ``round(number / 2)``, with halves rounded to even, for a number of a graph."""
    return number // 2 + number % 4 // 3


def _nearest(dividend: int, divisor: int) -> int:
    """Return ``round(dividend / divisor)``, halves to the even side, and at least 1, for numbers of
    a graph.
    """
    doubled = 2 * dividend // divisor
    nearest = (doubled + 1) // 2
    is_exact = 1 - _least(2 * dividend % divisor, 1)
    return _most(nearest - is_exact * (doubled % 2) * (nearest % 2), 1)
