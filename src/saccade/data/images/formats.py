"""The image format of a file, recognised by its first bytes, not by its name."""

from __future__ import annotations

from saccade.data.images.limits import MAX_PIXELS as MAX_PIXELS
from saccade.data.images.limits import BadImage as BadImage

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
"""The endings, in lower case, of files that count as images."""
Data = bytes | memoryview
_MAGICS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    *((magic, "GIF") for magic in (b"GIF87a", b"GIF89a")),
    *((magic, "TIFF") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((magic, "PPM") for magic in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")),
    (b"BM", "BMP"),
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_OTHER_MAGICS = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"PF\n", "float PFM"),
    (b"Pf\n", "float PFM"),
    (b"P7\n", "PAM"),
    (b"#?RADIANCE", "float Radiance"),
    (b"v/1\x01", "float OpenEXR"),
    (b"SIMPLE  =", "FITS"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"\0\0\1\0", "Windows icon"),
    (b"\n\5\1\x08", "PCX"),
    (b"\1\xda\0\1", "Silicon Graphics"),
    (b"\1\xda\1\1", "Silicon Graphics"),
)


def format_of(data: Data) -> str:
    """Return the format that the first bytes tell, in Pillow's words, such as ``JPEG``.

    Raises BadImage.
    """
    head = bytes(data[:12])
    # RIFF holds sounds and films, too: the kind stands behind the length
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "WEBP"
    for magic, kind in _MAGICS:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp" and any(brand in _brands(data) for brand in _AVIF_BRANDS):
        return "AVIF"
    if not head:
        raise BadImage("not an image: the file is empty", "empty")
    if named := _other_format(head):
        raise BadImage(f"unsupported: a {named} image; save it as JPEG or PNG", "unsupported")
    raise BadImage(f"not an image: it begins with {head!r}", "not-an-image")


def _other_format(head: bytes) -> str:
    """Return the name of an unsupported image format, or nothing."""
    if head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS:
        return "HEIC"
    return next((name for magic, name in _OTHER_MAGICS if head.startswith(magic)), "")


def _brands(data: Data) -> tuple[bytes, ...]:
    """Return what a file in the ISO base format says it is.

    *Source:* ISO/IEC 14496-12, section 4.3.
    """
    body = bytes(data[8 : min(int.from_bytes(data[:4], "big"), 256)])
    return tuple(body[place : place + 4] for place in range(0, len(body), 4))
