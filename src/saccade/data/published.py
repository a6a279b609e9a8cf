"""Sets that are downloaded by their names, files behind a user's own addresses, and where ImageNet
is to be had.

*Source:* addresses and MD5 of torchvision 0.26, ``datasets``; sizes of TensorFlow Datasets,
``url_checksums``. The files of Imagenette and Imagewoof were replaced more than once, and public
lists disagree about their checksums: none is given.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from saccade import files
from saccade.data.archives.download import CONNECTIONS, Remote, fetch, measured
from saccade.data.sources.ilsvrc import DEVKIT, TARS
from saccade.data.sources.official import OFFICIAL
from saccade.errors import DataError, UsageError
from saccade.log import Log

IMAGENET = "imagenet"
IMAGENET_FILES = {
    TARS["train"]: ("138 GB", "1d675b47d978889d74fa0da5fadfb00e"),
    TARS["val"]: ("6.3 GB", "29b22e2961454d5413ddabcf34fc5622"),
    DEVKIT: ("2.5 MB", "fa75699e90414af021442c21a62c3abf"),
}
"""The files of ILSVRC2012, their rough sizes and MD5. *Source:* image-net.org; torchvision 0.26,
``datasets.imagenet``.
"""

_DIGITS = {"md5": 32, "sha256": 64}


@dataclass(frozen=True, slots=True)
class Published:
    """A set with stable public addresses: its files, its page, and how to train on it.

    ``use`` has ``{place}`` where the path of its file stands, or of its folder if it has several.
    """

    files: tuple[Remote, ...]
    page: str
    use: str = "saccade train --data {place}"


def _published(page: str, site: str, *found: tuple[str, int | None, str], use: str) -> Published:
    remotes = tuple(Remote(name, size, md5, (site + name,)) for name, size, md5 in found)
    return Published(remotes, page, use)


def _fastai(name: str) -> Published:
    return _published(
        "https://github.com/fastai/imagenette",
        "https://s3.amazonaws.com/fast-ai-imageclas/",
        (f"{name}.tgz", None, ""),
        use="saccade train --data {place}",
    )


_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"
_TABLE = "write their classes into labels.csv (path,label), then: saccade train --data "

PUBLISHED = {
    **{name: Published(one.files, one.page) for name, one in OFFICIAL.items()},
    "imagenette": _fastai("imagenette2"),
    "imagenette-320": _fastai("imagenette2-320"),
    "imagenette-160": _fastai("imagenette2-160"),
    "imagewoof": _fastai("imagewoof2"),
    "imagewoof-320": _fastai("imagewoof2-320"),
    "imagewoof-160": _fastai("imagewoof2-160"),
    "food-101": _published(
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        "http://data.vision.ee.ethz.ch/cvl/",
        ("food-101.tar.gz", 4_996_278_331, "85eeb15f3717b99a5da872d97d918f87"),
        use="saccade train --data {place} --holdout 10%",
    ),
    "flowers-102": _published(
        f"{_OXFORD}flowers/102/",
        f"{_OXFORD}flowers/102/",
        ("102flowers.tgz", None, "52808999861908f626f3c1f4e79d11fa"),
        ("imagelabels.mat", None, "e0620be6f572b9609742df49c70aed4d"),
        ("setid.mat", None, "a5357ecc9cb78c4bef273ce3793fc85c"),
        use=f"{_TABLE}{{place}}/102flowers.tgz --labels labels.csv --holdout 10%",
    ),
    "oxford-pets": _published(
        f"{_OXFORD}pets/",
        f"{_OXFORD}pets/data/",
        ("images.tar.gz", 791_918_971, "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        ("annotations.tar.gz", 19_173_078, "95a8c909bbe2e81eed6a22bccdf3f68f"),
        use=f"{_TABLE}{{place}}/images.tar.gz --labels labels.csv --holdout 10%",
    ),
}


def download(
    what: Sequence[str], out: Path, log: Log, connections: int = CONNECTIONS
) -> dict[str, Any]:
    """Bring sets into ``out/<name>/`` and files behind addresses into ``out/``, and check them.

    Returns ``files``, with path, size, SHA-256, and the kind of the published checksum that each
    one has (``md5``, ``sha256``, or empty where none is known), and ``use``, what to do next.
    A file that is there is never written to. Raises UsageError, DataError and DiskError.
    """
    sets = {name: PUBLISHED[name] for name in what if _is_set(name)}
    own = [_own(address) for address in what if address not in sets]
    names = [remote.name for remote in own]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UsageError(
            f"two addresses have a file named {twice}",
            where=str(out / twice),
            fix="download one of them into another folder with --out",
        )

    done, use = [], []
    for name, one in sets.items():
        place = out / name
        done += _bring(one.files, place, one.page, log, connections=connections)
        only = place / one.files[0].name if len(one.files) == 1 else place
        use.append(one.use.format(place=only))
    if own:
        done += _bring(own, out, "", log, connections=connections)
        official = set(names) >= set(TARS.values())
        use.append(f"saccade train --data {out if official else out / names[0]}")
    return {"files": done, "use": use}


def _is_set(word: str) -> bool:
    """Tell a name from an address; raises UsageError on what is neither, DataError on ImageNet."""
    if word in PUBLISHED:
        return True
    if word.lower().removesuffix("-1k").removesuffix("2012") in (IMAGENET, "ilsvrc"):
        raise _only_by_hand()
    if "://" in word:
        return False
    near = difflib.get_close_matches(word, PUBLISHED, 1)
    meant = f"; did you mean '{near[0]}'?" if near else ""
    known = ", ".join([*PUBLISHED, IMAGENET])
    raise UsageError(
        f"there is no known data set '{word}'{meant}",
        fix=f"name one of {known}, or give addresses that begin with https://",
    )


def _only_by_hand() -> DataError:
    wanted = "\n".join(
        f"{name}  (about {size}, MD5 {md5})" for name, (size, md5) in IMAGENET_FILES.items()
    )
    return DataError(
        "ImageNet is available only after registration and acceptance of its terms; "
        f"get\n{wanted}\nfrom https://image-net.org/download-images, or the archive of Kaggle's "
        "imagenet-object-localization-challenge",
        fix="put the three files into one folder, imagenet/, and run: saccade train --data "
        "imagenet/ (Kaggle's archive is read directly). With your own addresses: saccade "
        "download URL URL --out imagenet",
    )


def _own(address: str) -> Remote:
    """Return the file behind an address, which may end in ``#sha256=...`` or ``#md5=...``.

    Raises UsageError.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"'{parts.scheme}' addresses cannot be downloaded" if parts.hostname else "no server",
            where=address.partition("?")[0],
            fix="give an address that begins with https:// or http://",
        )
    name = files.safe_name(unquote(PurePosixPath(parts.path).name))
    if not PurePosixPath(parts.path).name:
        raise UsageError(
            "this address does not end in a file name",
            where=address.partition("?")[0],
            fix="give the address of a file, such as https://host/photos.zip",
        )

    kind, _, digits = parts.fragment.lower().partition("=")
    if parts.fragment and not (len(digits) == _DIGITS.get(kind) and digits.isalnum()):
        raise UsageError(
            f"'#{parts.fragment}' is not a checksum",
            where=address.partition("?")[0],
            fix="end the address in #sha256= and 64 digits, or #md5= and 32",
        )
    found = {kind: digits} if kind else {"md5": IMAGENET_FILES.get(name, ("", ""))[1]}
    plain = parts._replace(fragment="").geturl()
    return replace(Remote(name, None, "", (plain,)), **found)  # type: ignore[arg-type]


def _bring(
    remotes: Sequence[Remote], folder: Path, page: str, log: Log, *, connections: int
) -> list[dict[str, Any]]:
    for remote in remotes:
        if (folder / remote.name).exists():
            _refuse_other(remote, folder, page)
    fetch(remotes, folder, page, log, connections=connections)
    return [
        {
            "path": str(folder / remote.name),
            "size_bytes": (folder / remote.name).stat().st_size,
            "sha256": files.digest(folder / remote.name),
            "checked": remote.checksum[0],
        }
        for remote in remotes
    ]


def _refuse_other(remote: Remote, folder: Path, page: str) -> None:
    """Raise DataError where a file of this name is there and is another one."""
    path, (kind, digits) = folder / remote.name, remote.checksum
    if kind:
        found, wanted = files.digest(path, kind), digits
        differs = f"its {kind.upper()} is {found} instead of {digits}"
    else:
        size = measured(remote, folder, page).size_bytes
        found, wanted = str(path.stat().st_size), str(size)
        differs = (
            f"it has {found} bytes, but the server's file has {'' if size is None else size} bytes"
        )
        if size is None:
            differs = "the server does not say the size of its file"
    if found != wanted:
        raise DataError(
            f"a file with this name exists, and it is never overwritten: {differs}",
            where=str(path),
            fix="move it, or choose another folder with --out",
        )
