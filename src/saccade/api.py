"""The Python interface: the verbs of the command line as typed functions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from saccade import objectives, report, trainer, units
from saccade.data import sources
from saccade.data.augment.own_augment import Augment
from saccade.data.sources import Source, Split, handed
from saccade.device import determinism
from saccade.distributed.world import joined
from saccade.errors import SaccadeError, UsageError
from saccade.evaluation import predictor
from saccade.evaluation.classifier import Classifier
from saccade.evaluation.predictor import Picture, Prediction
from saccade.listeners import Callback, require_callable
from saccade.log import Log
from saccade.models.weights.readings import unwrapped
from saccade.objectives.objective import Objective, Result
from saccade.objectives.own_loss import Loss
from saccade.optim.own_optimizer import Factory
from saccade.runs import answers, foreign, resuming, scoring
from saccade.runs.foreign import Expected
from saccade.runs.subject import Subject
from saccade.setup import keywords
from saccade.setup.agreement import settings_of
from saccade.setup.compose import Request, compose
from saccade.setup.compose import dry_run as settle
from saccade.setup.flags import FLAGS
from saccade.trainer import Outcome
from saccade.training.behaviour import AS_SET, Behaviour


def train(
    recipe: str | Path | Sequence[str | Path] = (),
    *,
    data: Any = None,
    val: Any = None,
    labels: str | Path | None = None,
    split_names: str | None = None,
    model: str | nn.Module | None = None,
    init: str | Path | None = None,
    epochs: int | float | str | None = None,
    within: float | str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    image_size: int | None = None,
    mean: float | str | Sequence[float] | None = None,
    std: float | str | Sequence[float] | None = None,
    bgr: bool | None = None,
    seed: int | None = None,
    out: str | Path = "",
    resume: str | Path = "auto",
    resume_changed: bool = False,
    devices: int | str | None = None,
    precision: str | None = None,
    max_time: float | str | None = None,
    patience: int | None = None,
    holdout: float | str | None = None,
    minival: float | str | None = None,
    freeze: float | str | None = None,
    dry_run: bool = False,
    set: str | Sequence[str] = (),
    quiet: bool = False,
    loss: Loss | None = None,
    optimizer: Factory | None = None,
    augment: Augment | None = None,
    objective: type[Objective] | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Outcome:
    """Train a classifier as ``saccade train`` does and return its folder and figures.

    Every flag of the command line is a keyword of the same name and means the same. ``recipe`` is
    one word or several: a YAML file, a recipe, a model. ``data`` and ``val`` may also be objects: a
    source or a split, a pair (images, labels), a data frame, a dataset of Hugging Face or torch, or
    a dict of splits (docs/data.md); they are identified by their contents. ``model`` may be your
    own ``nn.Module`` that maps float images (B, 3, S, S) to logits (B, classes). ``batch_size`` is
    global, ``lr`` the effective rate; ``holdout`` and ``minival`` are fractions such as 0.1 or
    ``"10%"``, ``max_time`` and ``within`` texts with a unit or seconds. ``mean`` and ``std`` are
    for red, green and blue in 0..1; with ``bgr`` the network sees blue first. ``freeze`` names what
    is frozen: ``"backbone"``, a module, or a fraction of the layers. ``dry_run`` only settles the
    configuration: the outcome has ``settings`` and no result.

    Your own behaviour (docs/python.md): ``loss(logits, targets)`` returns the mean of a cell
    (micro-batch), a scalar, of logits, float32 (B, C), and targets, int64 (B,).
    ``optimizer(parameters)`` returns a ``torch.optim.Optimizer``. ``augment(image, generator)``
    returns an image, uint8 (H, W, 3), like the one it gets, and draws from the generator alone.
    ``objective`` is a class derived from ``saccade.Objective`` (docs/objectives.md). Each of
    ``callbacks`` is called with the events of the run.

    Other settings go by their dotted names with ``__`` for the dot, e.g. ``augment__mixup=0.2``.
    Raises a SaccadeError with the reason and what to do.
    """
    begun, model = time.monotonic(), _network(model)
    behaviour = Behaviour(loss, optimizer, augment, objective)
    behaviour.check(lr)
    require_callable(callbacks)
    flags = {name: value for name, value in locals().items() if name in FLAGS}
    module = model if isinstance(model, nn.Module) else None
    request = replace(keywords.request(recipe, flags, set, settings), out=str(out), pretrains=False)
    return started(
        request,
        (data, val),
        module,
        behaviour,
        resume=resume,
        resume_changed=resume_changed,
        dry_run=dry_run,
        quiet=quiet,
        callbacks=callbacks,
        begun=begun,
    )


def pretrain(
    recipe: str | Path | Sequence[str | Path] = (),
    *,
    data: Any = None,
    val: Any = None,
    model: str | nn.Module | None = None,
    out: str | Path = "",
    resume: str | Path = "auto",
    resume_changed: bool = False,
    dry_run: bool = False,
    set: str | Sequence[str] = (),
    quiet: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Outcome:
    """Pretrain an encoder without labels as ``saccade pretrain`` does; return folder and results.

    ``recipe`` is a method (``"simclr"``), or several words: a method and a model, a recipe, a YAML
    file. ``data`` may have labels or none. Every flag of the command line is a keyword of the same
    name, and all other arguments are those of ``train``. The folder goes to ``train(init=...)``.
    Raises a SaccadeError with the reason and what to do.
    """
    begun, model = time.monotonic(), _network(model)
    require_callable(callbacks)
    given = {"data": data, "val": val, "model": model}
    flags = {name: given[name] if name in given else settings.pop(name, None) for name in FLAGS}
    request = replace(keywords.request(recipe, flags, set, settings), out=str(out), pretrains=True)
    return started(
        request,
        (data, val),
        model if isinstance(model, nn.Module) else None,
        AS_SET,
        resume=resume,
        resume_changed=resume_changed,
        dry_run=dry_run,
        quiet=quiet,
        callbacks=callbacks,
        begun=begun,
    )


def started(
    request: Request,
    sources: tuple[Any, Any],
    module: nn.Module | None,
    behaviour: Behaviour,
    *,
    resume: str | Path,
    resume_changed: bool,
    dry_run: bool,
    quiet: bool,
    callbacks: Sequence[Callback],
    begun: float,
) -> Outcome:
    """Resolve a request and train; ``sources`` are the training data and the validation data."""
    data, val = sources
    if not isinstance(resume, str | Path):
        raise UsageError(
            f"resume={resume!r} is not valid",
            where="resume",
            fix=(
                "write 'auto' (continue where the run stopped), 'never', or the path of a "
                "checkpoint"
            ),
        )
    request = resuming.based(request, str(resume))
    if dry_run:
        config = settle(keywords.with_sources(request, data, val, Log(quiet=quiet)))
        return Outcome(Path(request.out), {}, 0.0, fresh=False, settings=config.dump())

    with joined(units.seconds(settings_of(request).ranks.start_limit)) as world:
        log = Log(rank=world.rank, quiet=quiet)
        log.listeners.around = determinism.kept
        for callback in callbacks if world.leads else ():
            log.listeners.add(callback)
        return trainer.train(
            compose(keywords.with_sources(request, data, val, log)),
            module=module,
            behaviour=behaviour,
            out=request.out,
            resume=str(resume),
            resume_changed=resume_changed,
            log=log,
            world=world,
            begun=begun,
        )


def open_source(data: Any, labels: str | Path = "", split_names: str = "") -> Source:
    """Open data once, for several runs: whatever ``train`` takes as ``data``.

    ``labels`` is a table that labels the images of a folder or archive, ``split_names`` says which
    folders are the splits. Raises DataError if the data cannot be used, UsageError if it is not
    data.
    """
    source = handed.opened(data, "data", "train", Log())
    return source or sources.open_source(data, labels, split_names)


def load(
    run: str | Path,
    module: nn.Module | str | None = None,
    *,
    best: bool = False,
    objective: type[Objective] | None = None,
    mean: float | str | Sequence[float] | None = None,
    std: float | str | Sequence[float] | None = None,
    bgr: bool | None = None,
    image_size: int | None = None,
) -> Classifier:
    """Load the classifier of a run folder, of one of its checkpoints, or of a file of weights.

    ``best`` takes the best checkpoint of a run folder; ``module`` is your own network,
    ``objective`` your own objective, if the run used them; the objective is then known in this
    process. The weights of a checkpoint are the average (EMA) if the run has one. For weights from
    another program, ``module`` is also the name of their network (``resnet50``, ``timm:NAME``), and
    ``mean``, ``std``, ``bgr`` and ``image_size`` describe the pixels that they expect; 1,000
    classes are taken as ImageNet's. Raises CheckpointError, also if a part of the network would
    stay random.
    """
    if objective is not None:
        objectives.know(objective)
    expected = Expected.of(module, mean=mean, std=std, bgr=bgr, image_size=image_size)
    if foreign.is_foreign(run, expected):
        return foreign.classifier(run, expected, None, Log())
    own = module if isinstance(module, nn.Module) else None
    return Subject.of(Path(run), best).classifier(own)


def evaluate(
    model: Classifier | str | Path,
    data: Any = None,
    *,
    labels: str | Path = "",
    split_names: str = "",
    split: str = "",
    best: bool = False,
    devices: str = "auto",
    precision: str = "auto",
    module: nn.Module | str | None = None,
    mean: float | str | Sequence[float] | None = None,
    std: float | str | Sequence[float] | None = None,
    bgr: bool | None = None,
    image_size: int | None = None,
) -> Result:
    """Evaluate a classifier on the validation split of a source, or on a split, each image once.

    ``model`` may be what ``load`` takes; without ``data``, a run is evaluated on its own validation
    split; ``best`` uses its best checkpoint. ``data`` may be what ``train`` takes. The device and
    precision are those of the run unless you name others; differences are reported on standard
    error. ``module`` and the arguments after it are for weights from another program, as in
    ``load``. A ``softmax.npy`` beside ``labels.npy``, or the folder of ``embed``, is evaluated
    without a network. Raises DataError if there is no such split, CheckpointError if the split is
    unknown.
    """
    if not isinstance(model, Classifier) and (file := answers.file_of(model)):
        answers.refuse_flags(data=data is not None, labels=labels, best=best, module=module)
        return answers.score(file, split)[0]

    # of a classifier everything is known
    pixels: dict[str, Any] = {"mean": mean, "std": std, "bgr": bgr, "image_size": image_size}
    expected = Expected() if isinstance(model, Classifier) else Expected.of(module, **pixels)
    given = scoring.opened(
        model,
        expected,
        best,
        data=data,
        split=split,
        labels=labels,
        split_names=split_names,
    )
    return scoring.score(
        given.classifier, given.split, given.resolved, devices=devices, precision=precision
    )[0]


def _network(model: Any) -> Any:
    """Return a network without torch's wrappers, or an unchanged name.

    Raises UsageError on a class.
    """
    if isinstance(model, type):
        what = f"model={model.__name__} is a class, not a network"
        raise UsageError(what, where="model", fix=f"pass an instance: model={model.__name__}(...)")
    return unwrapped(model) if isinstance(model, nn.Module) else model


def validation_images(run: str | Path) -> Split:
    """Return the images that a run was validated on, in the order of its saved answers.

    Raises DataError where they are not found, CheckpointError where this is no run.
    """
    return scoring.own_split(Subject.of(Path(run)).config)


def write_notebook(run: Path) -> tuple[Path, bool]:
    """Write the notebook of a run, and tell whether it is new; raises UsageError for no run."""
    try:
        return report.write_notebook(run, validation_images(run))
    except SaccadeError:  # as in write_page
        return report.write_notebook(run)


def write_page(run: Path, best: bool = False) -> Path:
    """Write the page of a run, or of one of its checkpoints, which is evaluated for it.

    Returns its path. Raises CheckpointError, or UsageError for weights outside a run folder.
    """
    subject = Subject.of(run, best)
    if subject.saved is not None:
        if subject.folder is None:
            raise UsageError(
                "this checkpoint is not inside a run folder",
                where=str(run),
                fix="name a run folder",
            )
        classifier, split = subject.classifier(), scoring.own_split(subject.config)
        result, _ = scoring.score(classifier, split, subject.resolved)
        return report.write_report(subject.folder, split, result, subject.path.name)

    try:
        return report.write_report(run, scoring.own_split(subject.config))
    # the images are gone: the page is written without the pictures of mistakes
    except SaccadeError:
        return report.write_report(run)


def predict(
    model: Classifier | str | Path,
    images: Picture | Iterable[Picture],
    *,
    top: int = 5,
    best: bool = False,
    strict: bool = False,
    module: nn.Module | str | None = None,
    mean: float | str | Sequence[float] | None = None,
    std: float | str | Sequence[float] | None = None,
    bgr: bool | None = None,
    image_size: int | None = None,
) -> Iterator[Prediction]:
    """Yield the most probable classes of each image, in order.

    ``model`` may be what ``load`` takes; ``best`` takes the best checkpoint of a run folder.
    ``images`` is one image or several: a path (of a folder: every image in it), the bytes of a
    file, a Pillow image, or an array, uint8 or uint16 of shape (height, width) or (height, width,
    channels); an array with one more dimension in front holds several. An image that cannot be read
    gets a prediction with ``error`` and no classes; with ``strict`` it raises DataError. ``module``
    and what follows it are for weights that others trained, as in ``load``.
    """
    classifier = model
    if not isinstance(classifier, Classifier):
        pixels = {"mean": mean, "std": std, "bgr": bgr, "image_size": image_size}
        classifier = load(classifier, module, best=best, **pixels)  # type: ignore[arg-type]
    return predictor.predict(classifier, predictor.several(images), top, strict=strict)


__all__ = [
    "Classifier",
    "Outcome",
    "Prediction",
    "Result",
    "Source",
    "Split",
    "evaluate",
    "load",
    "open_source",
    "predict",
    "pretrain",
    "train",
    "validation_images",
]
