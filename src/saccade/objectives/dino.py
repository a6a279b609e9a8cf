"""DINO: a student learns to predict the output of its own slow average for other views of an image.

Caron et al. 2021, *Emerging Properties in Self-Supervised Vision Transformers*, arXiv 2104.14294.
The teacher sees the large views, the student all views; the teacher is saved as the encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from saccade.data.augment.local_views import local_side
from saccade.data.augment.mix import normalise
from saccade.errors import ConfigError
from saccade.models.parts.learner import Learner, draw, headless
from saccade.models.parts.self_distillation import Said, Seen, SelfDistillation
from saccade.objectives.joint_embedding import JointEmbedding
from saccade.objectives.joint_losses import constant_distil, distil
from saccade.objectives.objective import Cell
from saccade.optim.schedule import half_wave
from saccade.units import Duration


@dataclass(frozen=True)
class Dino(JointEmbedding):
    """Self-distillation without labels, with small views, a centre and a momentum teacher."""

    name: ClassVar[str] = "dino"

    def wrap(self, network: nn.Module) -> Learner:
        """Return the network without its head as student, with a head of prototypes, and a teacher.

        Raises ConfigError where the network does not end in a linear layer, or the projector has
        no bottleneck before its prototypes.
        """
        section = self.config.pretrain
        if len(section.projector) < 2:
            raise ConfigError(
                (
                    f"pretrain.projector={list(section.projector)} has no hidden layer before the "
                    "prototypes"
                ),
                where="pretrain.projector",
                fix=(
                    "write for example [2048, 2048, 256, 65536]: hidden layers, bottleneck, "
                    "prototypes"
                ),
            )
        encoder, width = headless(network)
        normed = section.norm_prototypes
        learner = SelfDistillation(encoder, width, section.projector, normed=normed)
        draw(learner.head, self.config.seed, "head")
        return learner

    def encoder(self, model: nn.Module) -> nn.Module:
        """Return the teacher, which is better than the student throughout training."""
        assert isinstance(model, SelfDistillation)
        return model.teacher

    def rows(self, inputs: Seen) -> int:
        """Return the number of images for which the student's stochastic depth is drawn."""
        return len(inputs)

    def prepare(self, cell: Cell) -> tuple[Seen, float]:
        """Return large and small views, normalised, and the teacher's temperature at this step."""
        large, _ = self.present(cell)
        small = cell.small
        if small is not None:
            section = self.config.data
            small = normalise(small, section.mean, section.std, section.channels)
        fixed = cell.step < self._steps(self.config.pretrain.fixed_prototypes)
        return Seen(large, small, fixed), self.sharpness(cell.step)

    def total_of_heads(self, answer: Said, targets: Any, auxiliary_weight: float) -> Tensor:
        """Return the distillation loss, summed over the large views of a cell, a scalar."""
        temperatures = (self.config.pretrain.temperature, float(targets))
        student, teacher, centre = answer
        return distil(student, teacher, centre, views=self.views, temperatures=temperatures)

    def constant_beside(self, cell: Cell, answer: Said) -> Tensor:
        """Return the loss of a student that gives the same answer for all images, a scalar."""
        return constant_distil(
            answer.teacher,
            answer.centre,
            views=self.views,
            temperature=self.sharpness(cell.step),
        )

    def after_update(self, model: nn.Module, step: int, good: Tensor) -> None:
        """Let the teacher follow the student, more slowly towards the end of the run.

        It does not change if ``good``, a bool scalar, is False. *Source:* Caron et al. 2021,
        section 3.1 (half a cosine to 1).
        """
        assert isinstance(model, SelfDistillation)
        first = self.config.pretrain.teacher_momentum
        share = half_wave(min(step / self.total_steps, 1.0))
        model.follow(1.0 - (1.0 - first) * share, good)

    def sharpness(self, step: int) -> float:
        """Return the teacher's temperature at a step: a linear change, then constant.

        *Source:* main_dino.py moves it once an epoch; this is the same line, step by step.
        """
        first, last = self.config.pretrain.teacher_temperature
        length = self._steps(self.config.pretrain.teacher_warmup)
        return first + (last - first) * min(step / length, 1.0) if length else last

    def _steps(self, duration: str) -> int:
        """Return a duration of the settings in steps of this run."""
        if not duration:
            return 0
        batch = self.config.batch.global_
        epoch = round(self.epoch_steps * batch)
        return Duration.parse(duration).steps(epoch, batch, self.total_steps)

    def announced(self) -> list[tuple[str, str]]:
        """Describe the views of each image, and the saved network."""
        count, section = self.config.augment.local_views, self.config.augment
        small = local_side(section, self.config.data.image_size)
        text = f"{self.views} large" + (f" and {count} small ones of {small} px" if count else "")
        return [("views", f"{text} of each image; the teacher is saved as the encoder")]

    @property
    def expected_first_loss(self) -> tuple[float, str]:
        """The loss of a uniform student: ln of the number of prototypes."""
        prototypes = self.config.pretrain.projector[-1]
        return math.log(prototypes), f"ln({prototypes})"
