"""The verbs that prepare, check and pack data.

Heavy imports wait until a verb runs, so that help is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from saccade.cli.app import Json, explained, print_json, show
from saccade.errors import DataError

app = typer.Typer()

GOES_ON = "what is finished is kept; the same command goes on from there"

SourceArgument = Annotated[
    str, typer.Argument(help="digits, a folder, a tar or a zip (.gz, .xz too).")
]

SplitNamesOption = Annotated[
    str | None,
    typer.Option(
        "--split-names",
        help="Which folders are the splits: train=Alpha,val=Beta; or none: all are classes.",
    ),
]


@app.command(epilog="Example: saccade verify photos.zip --out ledger.json")
def verify(
    source: SourceArgument,
    md5: Annotated[
        bool,
        typer.Option("--md5", help="Check the MD5 of the ILSVRC2012 archives themselves, too."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the ledger with all names as JSON.")
    ] = None,
    split_names: SplitNamesOption = None,
    json_out: Json = False,
) -> None:
    """Read every image once: count, compare, and name everything that is odd.

    Exit 65 if something is wrong.
    """
    with explained(json_out):
        from saccade import files
        from saccade.data.audit import verify as ledger
        from saccade.data.sources import open_source
        from saccade.log import Log

        archives = ledger.known_archives(Path(source)) if md5 else []
        verdict = ledger.verify(
            open_source(source, split_names=split_names or ""), Log(), archives=archives
        )
        if out is not None:
            files.write_json(out, verdict.to_json())
        if json_out:
            print_json(verdict.to_json())
        else:
            ledger.show(verdict)
        if verdict.failed:
            raise typer.Exit(DataError.status)


@app.command(epilog="Example: saccade prepare photos.zip photos/")
def prepare(
    source: SourceArgument,
    target: Annotated[
        Path,
        typer.Argument(help="The folder that gets train/<class>/<image>, val/<class>/<image>."),
    ],
    split_names: SplitNamesOption = None,
    json_out: Json = False,
) -> None:
    """Write any source as an ordinary tree of image files.

    Killed, it goes on with the same command.
    """
    with explained(json_out, again=GOES_ON):
        from saccade.data import prepare as tree
        from saccade.data.sources import open_source
        from saccade.log import Log

        done = tree.prepare(open_source(source, split_names=split_names or ""), target, Log())
        if json_out:
            print_json(done)
        else:
            counts = ", ".join(f"{count:,} in '{name}'" for name, count in done["splits"].items())
            show(f"{target}: {counts}; {done['written']:,} written now")


@app.command(epilog="Example: saccade pack photos.zip packs/photos --max-side 400")
def pack(
    source: SourceArgument,
    target: Annotated[
        Path, typer.Argument(help="The folder of the pack, which is trained on as --data.")
    ],
    max_side: Annotated[
        int, typer.Option("--max-side", help="Reduce the longer side to this; 0: never.")
    ] = 500,
    quality: Annotated[int, typer.Option("--quality", help="libjpeg's quality, 1 to 100.")] = 90,
    tile: Annotated[int, typer.Option("--tile", help="Width of a tile in pixels.")] = 32,
    chroma: Annotated[
        Literal["source", "4:2:0", "4:4:4"],
        typer.Option("--chroma", help="How finely colour is stored."),
    ] = "source",
    original: Annotated[
        bool, typer.Option("--original", help="Keep the bytes of every image.")
    ] = False,
    split_names: SplitNamesOption = None,
    json_out: Json = False,
) -> None:
    """Pack a dataset for fast training: few files, tiled JPEGs, checksums.

    Killed, it goes on with the same command.
    """
    with explained(json_out, again=GOES_ON):
        from saccade.data import packing
        from saccade.data.sources import open_source
        from saccade.log import Log

        found = open_source(source, split_names=split_names or "")
        settings = packing.Settings(max_side, quality, tile, original, chroma)
        with Log().progress("packing", sum(map(len, found.splits.values()))) as bar:
            done = packing.pack(
                found,
                target,
                settings,
                lambda count: bar.update(count, "decoded, reduced, encoded"),
            )
        if json_out:
            print_json(done.to_json())
        else:
            show(done.text)


@app.command(epilog="Example: saccade bench loader --data photos.zip --model resnet18")
def bench(
    what: Annotated[
        Literal["loader"], typer.Argument(help="loader: reading, decoding, resizing, batches.")
    ],
    data: Annotated[str, typer.Option("--data", help="Your images.")] = "digits",
    model: Annotated[
        str | None, typer.Option("--model", help="A name from `saccade models`.")
    ] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="Side in pixels.")] = None,
    holdout: Annotated[
        str, typer.Option("--holdout", help="For class folders without a split: 10%.")
    ] = "",
    split_names: SplitNamesOption = None,
    json_out: Json = False,
) -> None:
    """Show where the time goes on your own data, and what would help by how much."""
    with explained(json_out):
        from saccade.log import Log
        from saccade.preflight import bench_loader
        from saccade.setup.compose import Request, compose, flag_settings

        flags = flag_settings(
            data=data,
            model=model,
            image_size=image_size,
            holdout=holdout or None,
            split_names=split_names,
        )
        found = bench_loader.diagnose(compose(Request(flags=flags)), Log())
        if json_out:
            print_json(found.to_json())
        else:
            show(bench_loader.show(found))


@app.command(
    name="show-augment",
    epilog="Example: saccade show-augment photos-small --data photos.zip --out views.png",
)
def show_augment(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="A YAML file, a recipe or a model; several are merged in order."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Your images; default: the recipe's, or digits.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="A CSV for images not in class folders.")
    ] = None,
    split_names: SplitNamesOption = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="Side in pixels.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting: section.key=value (repeatable).")
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=1, max=64, help="How many images, one in each row.")
    ] = 6,
    views: Annotated[
        int, typer.Option("--views", min=1, max=64, help="How many views of each, side by side.")
    ] = 8,
    out: Annotated[Path, typer.Option("--out", help="The PNG file.")] = Path("augment.png"),
    json_out: Json = False,
) -> None:
    """Draw what the network will see: rows are images, the first column is the evaluation view,
    the others training.
    """
    with explained(json_out):
        from saccade import files
        from saccade.data.sources import train_split
        from saccade.preflight.contact_sheet import contact_sheet
        from saccade.setup.compose import Request, compose, flag_settings

        flags = flag_settings(
            data=data, labels=labels, split_names=split_names, image_size=image_size
        )
        composed = compose(Request(words or (), flags, sets or ()))
        sheet = contact_sheet(composed.config, train_split(composed.source), images, views)
        files.write_bytes(out, sheet.to_png())
        if json_out:
            print_json({"sheet": str(out), "images": sheet.images, "columns": sheet.columns})
        else:
            show(str(out))
