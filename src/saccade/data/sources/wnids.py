"""Images in no class folder whose names end with their WordNet id, as Hugging Face packs ImageNet.

``train_images_0.tar.gz`` holds ``n01440764_10026_n01440764.JPEG``, ``val_images.tar.gz`` holds
``ILSVRC2012_val_00000293_n01440764.JPEG``, ``test_images.tar.gz`` images without an id.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from saccade.data.sources.layout import NO_CLASS_FOLDER, WHOLE, Layout, is_image, layout_of_rows
from saccade.data.sources.split_names import meaning
from saccade.data.sources.webdataset import Shard, splits_of

OTHER = "not an image by its name"
_LAST = re.compile(r"_(n\d{8})\.\w+")
_FIRST = re.compile(r"(n\d{8})_")


def class_in(name: str) -> str:
    """Return the WordNet id at the end of a file name; empty if there is none, or another one at
    its start.
    """
    first, last = _FIRST.match(name), _LAST.search(name)
    return last[1] if last and (first is None or first[1] == last[1]) else ""


def named_shard(path: Path, names: Sequence[str]) -> Shard | None:
    """Return the images of a tar by the WordNet ids in their names.

    Returns None if they lie in folders or lack an id.
    """
    pictures = [(place, name) for place, name in enumerate(names) if is_image(name)]
    rows = [(class_in(name), name, place) for place, name in pictures if "/" not in name]
    if not rows or len(rows) < len(pictures) or not all(label for label, _, _ in rows):
        return None
    return Shard(path, rows, Counter({OTHER: len(names) - len(rows)}))


def named_layout(path: Path, names: Sequence[str]) -> Layout | None:
    """Arrange such images, flat or in folders called like splits; None if this is another tree.

    The name of the folder or archive tells the split of flat images. Images of a test folder have
    no ids and are left out.
    """
    rows: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    unlabelled: list[str] = []
    ignored: Counter[str] = Counter()

    for place, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        if not is_image(name):
            ignored[OTHER] += 1
            continue

        split, label = meaning(folder.rpartition("/")[2]).split, class_in(file)
        if folder and not split:
            return None
        if label:
            rows[split or WHOLE].append((label, file, place))
        elif split == "test":
            unlabelled.append(name)
        else:
            return None

    if not rows:
        return None
    if WHOLE in rows:
        rows[splits_of([path])[0]] = rows.pop(WHOLE)
    return layout_of_rows(rows, ignored + Counter({NO_CLASS_FOLDER: len(unlabelled)}), unlabelled)
