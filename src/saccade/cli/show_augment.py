"""``saccade show-augment``: the images as the network sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import options
from saccade.cli.app import app, explained, print_json, show
from saccade.errors import UsageError


@app.command(
    name="show-augment",
    epilog="Example: saccade show-augment photos-small --data photos.zip --out views.png",
)
def show_augment(
    words: options.Words = None,
    data: options.Data = None,
    labels: options.Labels = None,
    split_names: options.SplitNames = None,
    image_size: options.ImageSize = None,
    sets: options.Sets = None,
    images: Annotated[
        int, typer.Option("--images", min=1, max=64, help="Number of images, one per row.")
    ] = 6,
    views: Annotated[
        int,
        typer.Option("--views", min=1, max=64, help="Number of views of each image, side by side."),
    ] = 8,
    out: Annotated[Path, typer.Option("--out", help="The PNG file to write.")] = Path(
        "augment.png"
    ),
    json_out: options.Json = False,
) -> None:
    """Draw the images as the network sees them: one row per image, its view at evaluation first."""
    with explained(json_out):
        if out.suffix.lower() != ".png":
            raise UsageError(
                f"'{out}' does not end in .png", where="--out", fix="write --out views.png"
            )

        from saccade import files
        from saccade.data.sources import train_split
        from saccade.preflight.contact_sheet import contact_sheet
        from saccade.setup.compose import Request, compose
        from saccade.setup.flags import flag_settings

        flags = flag_settings(
            data=data, labels=labels, split_names=split_names, image_size=image_size
        )
        composed = compose(Request(words or (), flags, sets or ()))
        sheet = contact_sheet(composed.config, train_split(composed.source), images, views)
        files.write_bytes(out, sheet.to_png())

        if json_out:
            print_json(
                {
                    "sheet": str(out),
                    "images": sheet.images,
                    "columns": sheet.columns,
                    "order": sheet.order,
                }
            )
        else:
            show(str(out))
            show(f"in this order: {', '.join(sheet.order)}")
