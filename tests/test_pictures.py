"""Any picture that people open becomes upright RGB of its own size; anything else is refused with a sentence."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.errors import ServiceError, TooLarge, UnsupportedMedia
from media import pictures
from media.pictures import Picture
from tests.shapes import drawing

LEFT_RED = drawing("red circle", "blue square")


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def read(path: Path) -> Picture:
    picture = pictures.read(path)
    assert picture is not None
    return picture


def colour(picture: Picture, x: float, y: float = 0.5) -> tuple[int, int, int]:
    """At a place given as shares of the sides."""
    image = picture.image
    red, green, blue = image.getpixel((int(x * image.width), int(y * image.height)))  # type: ignore[misc]
    return int(red), int(green), int(blue)


def near(one: tuple[int, ...], other: tuple[int, ...], by: int = 40) -> bool:
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGB"),
        ("a.png", "RGBA"),
        ("a.png", "P"),
        ("a.jpg", "RGB"),
        ("a.jpg", "CMYK"),
        ("a.gif", "P"),
        ("a.webp", "RGB"),
        ("a.webp", "RGBA"),
        ("a.bmp", "RGB"),
        ("a.tif", "RGB"),
        ("a.tif", "CMYK"),
        ("a.avif", "RGB"),
        ("a.heic", "RGB"),
        ("a.heic", "RGBA"),
        ("a.jp2", "RGB"),
        ("a.ppm", "RGB"),
    ],
)
def test_common_formats_and_modes_look_as_they_should(tmp_path: Path, name: str, mode: str) -> None:
    """Without a suffix too, as uploads come."""
    path = saved(tmp_path / name, LEFT_RED.image().convert(mode))
    picture = read(path.rename(tmp_path / "upload"))
    assert (picture.size, picture.image.mode) == ((640, 360), "RGB")
    assert near(colour(picture, 0.25), (222, 28, 30))
    assert near(colour(picture, 0.75), (30, 62, 220))
    assert near(colour(picture, 0.5), (132, 132, 132))


@pytest.mark.parametrize(
    ("orientation", "size", "red_at"),
    [
        (1, (640, 360), (0.25, 0.5)),
        (2, (640, 360), (0.75, 0.5)),
        (3, (640, 360), (0.75, 0.5)),
        (4, (640, 360), (0.25, 0.5)),
        (5, (360, 640), (0.5, 0.25)),
        (6, (360, 640), (0.5, 0.25)),
        (7, (360, 640), (0.5, 0.75)),
        (8, (360, 640), (0.5, 0.75)),
    ],
)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.heic"])
def test_cameras_orientation_is_applied(
    tmp_path: Path, name: str, orientation: int, size: tuple[int, int], red_at: tuple[float, float]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read(saved(tmp_path / name, LEFT_RED.image(), exif=exif.tobytes()))
    assert picture.size == picture.image.size == size
    assert near(colour(picture, *red_at), (222, 28, 30))


def test_broken_metadata_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", LEFT_RED.image(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read(path).size == (640, 360)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif", "a.tif", "a.heic"])
def test_what_is_transparent_is_white(tmp_path: Path, name: str) -> None:
    """Whatever colour hides behind it."""
    image = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 32, 64))
    picture = read(saved(tmp_path / name, image))
    assert near(colour(picture, 0.25), (0, 0, 255), 5)
    assert near(colour(picture, 0.75), (255, 255, 255), 5)


def test_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(64, 0)
    for name in ("a.png", "a.tif"):
        picture = read(saved(tmp_path / name, Image.fromarray(ramp)))
        assert [colour(picture, x)[0] for x in (0.02, 0.5, 0.99)] == pytest.approx([5, 128, 253], abs=2)
    floats = read(saved(tmp_path / "f.tif", Image.fromarray(ramp.astype(np.float32) / 65535)))
    assert [colour(floats, x)[0] for x in (0.02, 0.5, 0.99)] == pytest.approx([5, 128, 253], abs=2)


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "1", "I;16"])
def test_large_pictures_are_kept_small_and_know_their_size(tmp_path: Path, mode: str) -> None:
    image = LEFT_RED.image(5000, 2811)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    picture = read(saved(tmp_path / "a.png", image.convert(mode), compress_level=1))
    assert picture.size == (5000, 2811)
    assert max(picture.image.size) <= pictures.MAX_SIDE
    assert picture.image.width / picture.image.height == pytest.approx(5000 / 2811, rel=0.01)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_000), (50_000, 50_000), (2**31 - 1, 1), (9_000, 8_900)])
def test_pixel_bombs_are_refused_before_they_are_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(TooLarge, match="million"):
        pictures.read(path)


def test_largest_picture_fits_into_bounded_memory(tmp_path: Path) -> None:
    """79 million transparent pixels, read by a process of its own that may have 1 GB."""
    path = saved(tmp_path / "a.png", Image.new("RGBA", (8_900, 8_900), (1, 2, 3, 40)), compress_level=1)
    program = f"""
import re
from pathlib import Path
from media import pictures
assert pictures.read(Path({str(path)!r})).size == (8900, 8900)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) << 10 < 1 << 30


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.avif", "a.heic", "a.tif", "a.bmp"])
def test_truncated_pictures_are_refused(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, LEFT_RED.image())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnsupportedMedia, match=r"damaged|cut short"):
        pictures.read(path)


def test_damaged_pictures_never_crash(tmp_path: Path) -> None:
    """Every one answers with a picture or a typed error."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    for name in ("png", "jpeg", "webp", "gif", "tiff", "bmp", "avif"):
        whole = io.BytesIO()
        LEFT_RED.image(160, 90).save(whole, name)
        for _ in range(20):
            raw = np.frombuffer(whole.getvalue(), np.uint8).copy()
            places = rng.integers(0, len(raw), 1 + len(raw) // 200)
            raw[places] = rng.integers(0, 256, len(places))
            path.write_bytes(raw.tobytes())
            try:
                pictures.read(path)
            except ServiceError as exc:
                assert str(tmp_path) not in exc.message


def test_what_is_no_picture_is_none(tmp_path: Path) -> None:
    for name, content in {"a.png": b"a letter, not a picture\n" * 50, "a.jpg": bytes(1000), "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        assert pictures.read(tmp_path / name) is None


def test_of_several_heic_pictures_the_main_one_is_read(tmp_path: Path) -> None:
    """A burst is no film."""
    first, second = (drawing(shape).image(160, 90) for shape in ("red circle", "blue square"))
    path = saved(tmp_path / "a.heic", first, save_all=True, append_images=[second], primary_index=1)
    assert not pictures.moves(path)
    assert near(colour(read(path), 0.5), (30, 62, 220))


def test_a_heic_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """Less than it decodes to, or far more."""
    whole = saved(tmp_path / "a.heic", LEFT_RED.image()).read_bytes()
    place = whole.index(b"ispe") + 8
    for size in ((64, 64), (640_000, 64_000)):
        (tmp_path / "a.heic").write_bytes(whole[:place] + struct.pack(">II", *size) + whole[place + 8 :])
        with pytest.raises(ServiceError) as refused:
            pictures.read(tmp_path / "a.heic")
        assert refused.value.code in ("UNSUPPORTED_MEDIA", "TOO_LARGE")


@pytest.mark.parametrize("head", [b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypavif", b"RIFF\xf0\xff\xff\xffWEBP"])
def test_what_would_be_read_whole_into_memory_is_bounded(tmp_path: Path, head: bytes) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.write(head)
        file.truncate(1 << 40)
    with pytest.raises(TooLarge, match="256 MiB"):
        pictures.read(tmp_path / "a")


def test_file_that_went_away_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as refused:
        pictures.read(tmp_path / "gone.png")
    assert refused.value.code == "FILE_NOT_FOUND"


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_pictures_that_move_have_frames_with_times(tmp_path: Path, name: str) -> None:
    first, second = (drawing(shape).image(160, 90) for shape in ("red circle", "blue square"))
    path = saved(tmp_path / name, first, save_all=True, append_images=[second, first], duration=[500, 250, 0])
    shown = list(pictures.frames(path))
    assert pictures.moves(path)
    assert [(frame.start, frame.length) for frame in shown] == [(0, 0.5), (0.5, 0.25), (0.75, 0.1)]
    assert [near(colour(frame.picture, 0.5), (222, 28, 30)) for frame in shown] == [True, False, True]


def test_pages_are_no_film(tmp_path: Path) -> None:
    pages = [drawing(shape).image(160, 90) for shape in ("red circle", "blue square")]
    path = saved(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    assert not pictures.moves(path)
    assert near(colour(read(path), 0.5), (222, 28, 30))
    assert not pictures.moves(saved(tmp_path / "still.gif", pages[0]))
