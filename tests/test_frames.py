"""Films are looked through cheaply, and yet every change that lasts is found, at its frame."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from contract.errors import NoVideo, ServiceError, TooLarge, UnsupportedMedia
from media import pictures
from media.frames import film, watch
from media.scenes import Look, Scene, Seen, alike, scenes
from media.strides import strides
from tests.recordings import beep, write
from tests.shapes import COLOURS, Drawing, drawing, fade, noisy, stills, write_film

RED, BLUE, GREEN = drawing("red circle"), drawing("blue square"), drawing("green cross")
MIXED = drawing("yellow star", "purple ring", ground="black")
SHOWN = [(RED, 3.2), (BLUE, 2.04), (MIXED, 1.12), (GREEN, 12.0), (RED, 3.0)]
CUTS = [0, 3.2, 5.24, 6.36, 18.36]


def watched(path: Path, interval: float = 1.0, known_at: float | None = None) -> tuple[list[Scene], float]:
    """The scenes of a film and where it ends."""
    with film(path) as shown:
        found = [scene for scene in watch(shown, interval, known_at) if scene is not None]
        return found, shown.end


def starts(path: Path, interval: float = 1.0) -> list[float]:
    return [round(scene.start, 3) for scene in watched(path, interval)[0]]


def middle(scene: Scene) -> str:
    """The colour in the picture's middle, by its nearest name."""
    image = scene.picture.image
    pixel = np.array(image.getpixel((image.width // 2, image.height // 2)), np.int16)
    return min(COLOURS, key=lambda name: int(np.abs(pixel - COLOURS[name]).sum()))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("detected.mp4", {}),
        ("fixed.mp4", {"scene_cuts": False}),
        ("dense.mp4", {"scene_cuts": False, "gop": 10}),
        ("reordered.mkv", {"scene_cuts": False, "gop": 10, "bf": "3"}),
        ("open.mp4", {"scene_cuts": False, "gop": 12, "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
        ("fixed.ts", {"scene_cuts": False, "start": 100.0}),
        ("dense.ts", {"scene_cuts": False, "gop": 20, "start": 7.0}),
        ("old.avi", {"codec": "mpeg4", "gop": 250}),
        ("old.mpg", {"codec": "mpeg2video", "gop": 15, "b": "2M"}),
        ("intra.mov", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("web.webm", {"codec": "libvpx", "gop": 128, "deadline": "realtime", "cpu-used": "8", "b": "1M"}),
        ("ten.mkv", {"pixel_format": "yuv420p10le", "scene_cuts": False}),
    ],
)
def test_cuts_are_found_at_their_frames(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """Whatever the container, the codec, the keyframes and the clock's start."""
    path = write_film(tmp_path / name, stills(SHOWN), **options)
    found, end = watched(path.rename(tmp_path / "upload"))
    exact = [scene for scene in found if any(abs(scene.start - cut) <= 0.0401 for cut in CUTS)]
    assert [min(CUTS, key=lambda cut: abs(cut - scene.start)) for scene in exact] == CUTS
    assert len(found) <= len(CUTS) + 1  # what an old codec leaves behind after a cut may need a second look
    assert [middle(scene) for scene in exact if scene.start != 5.24][:2] == ["red", "blue"]
    assert end == pytest.approx(21.36, abs=0.1)


@pytest.mark.parametrize("interval", [0.2, 0.5, 2.0, 5.0])
def test_cuts_further_apart_than_the_interval_are_found(tmp_path: Path, interval: float) -> None:
    lengths = [interval * 1.1 + 0.04, interval * 2.3, interval * 1.02 + 0.04, interval * 1.5]
    shown = list(zip((RED, BLUE, MIXED, GREEN), [round(25 * length) / 25 for length in lengths], strict=True))
    truth = np.cumsum([0, *(length for _, length in shown[:-1])])
    for gop in (250, 7):
        path = write_film(tmp_path / f"{gop}.mp4", stills(shown), scene_cuts=False, gop=gop)
        assert starts(path, interval) == pytest.approx(truth.tolist(), abs=0.0401)


def test_a_rare_look_sees_less(tmp_path: Path) -> None:
    """What is shown for less than an interval may be passed over, and costs nothing then."""
    path = write_film(tmp_path / "a.mp4", stills([(RED, 5.2), (BLUE, 0.4), (RED, 6)]), scene_cuts=False)
    assert len(starts(path, 5)) == 1


@pytest.mark.parametrize("gop", [250, 20])
def test_noise_and_compression_show_nothing_new(tmp_path: Path, gop: int) -> None:
    frames = noisy(stills([(RED, 12), (BLUE, 8)], size=(320, 180)), strength=12)
    path = write_film(tmp_path / "a.mp4", frames, scene_cuts=False, gop=gop, crf="34")
    assert starts(path) == [0, 12]


def test_a_small_difference_in_shape_is_something_new(tmp_path: Path) -> None:
    """The same colour, size and place, the smallest size that the model knows."""
    shown = [(drawing(f"red {kind}", size=0.25), 2.0) for kind in ("circle", "square", "star", "cross", "ring")]
    path = write_film(tmp_path / "a.mp4", noisy(stills(shown, size=(640, 360))), scene_cuts=False)
    assert starts(path) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("seconds", [0.4, 1, 2, 3.5])
@pytest.mark.parametrize("gop", [250, 20])
def test_no_picture_is_taken_from_the_midst_of_a_cross_fade(tmp_path: Path, seconds: float, gop: int) -> None:
    frames = [*stills([(RED, 3.4)]), *fade(RED, GREEN, seconds), *stills([(GREEN, 4)])]
    path = write_film(tmp_path / "a.mp4", frames, scene_cuts=False, gop=gop)
    found, _ = watched(path)
    assert [middle(scene) for scene in found] == ["red", "green"]
    assert 3.4 <= found[1].start <= 3.4 + seconds
    assert found[1].at >= 3.4 + seconds * 0.8


def test_a_film_that_fades_in_does_not_begin_with_black(tmp_path: Path) -> None:
    black = Drawing(ground="black")
    frames = [*fade(black, RED, 1.5), *stills([(RED, 4)])]
    found, _ = watched(write_film(tmp_path / "a.mp4", frames))
    assert [(scene.start, middle(scene)) for scene in found] == [(0, "red")]


def test_a_slow_pan_is_not_missed(tmp_path: Path) -> None:
    """Neighbouring looks are alike, and yet the picture moves on."""
    wide = np.concatenate([what.pixels(320, 180) for what in (RED, MIXED, GREEN, BLUE)], axis=1)
    steps = np.linspace(0, wide.shape[1] - 320, 60 * 10).astype(int)
    frames = (np.ascontiguousarray(wide[:, step : step + 320]) for step in steps)
    found, _ = watched(write_film(tmp_path / "a.mp4", frames, rate=10, gop=600))
    taken = [scene.at for scene in found]
    assert len(found) <= 60
    assert max(np.diff([0, *taken, 60])) <= 6
    assert {"green", "blue"} <= {middle(scene) for scene in found}


def test_steady_motion_is_looked_at_now_and_then(tmp_path: Path) -> None:
    """At least once in the time that a fade may take, and not more than once for each look."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 255, (9, 80, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    frames = (np.ascontiguousarray(wide[:, step * 4 : step * 4 + 320]) for step in range(300))
    found, _ = watched(write_film(tmp_path / "a.mp4", frames, scene_cuts=False))
    assert 3 <= len(found) <= 13


def test_frames_may_last_as_long_as_they_like(tmp_path: Path) -> None:
    times = [0.0, 0.9, 1.0, 9.0, 9.1, 30.5, 30.54]
    shown = [RED, RED, BLUE, BLUE, GREEN, GREEN, RED]
    path = write_film(tmp_path / "a.mkv", [what.pixels(320, 180) for what in shown], times=times)
    assert starts(path) == pytest.approx([0, 1, 9.1, 30.54], abs=0.002)


@pytest.mark.parametrize(("turn", "size"), [(90, (180, 320)), (-90, (180, 320)), (180, (320, 180))])
def test_films_are_turned_as_players_turn_them(tmp_path: Path, turn: int, size: tuple[int, int]) -> None:
    upright = drawing("red circle", "blue square").image(*size)
    stored = upright.rotate(-turn, expand=True)
    path = write_film(tmp_path / "a.mp4", [np.asarray(stored)] * 30, turn=turn)
    ((scene,), _) = watched(path)
    assert scene.picture.size == scene.picture.image.size == size
    assert np.abs(np.asarray(scene.picture.image, np.int16) - np.asarray(upright)).mean() < 8


def test_pixels_become_square(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", stills([(RED, 1)], size=(160, 180)), aspect=Fraction(2, 1))
    ((scene,), _) = watched(path)
    assert scene.picture.size == scene.picture.image.size == (320, 180)


@pytest.mark.parametrize("size", [(318, 178), (2, 2), (16, 1000), (1920, 8)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_film(tmp_path / "a.mp4", stills([(Drawing(ground="pink"), 3)], size=size))
    ((scene,), _) = watched(path)
    assert scene.picture.size == size


def test_a_large_frame_is_kept_small_and_knows_its_size(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", [RED.pixels(2560, 1440)] * 3, preset="ultrafast")
    ((scene,), _) = watched(path)
    assert (scene.picture.size, scene.picture.image.size) == ((2560, 1440), (1024, 576))


def test_a_film_of_one_frame(tmp_path: Path) -> None:
    ((scene,), end) = watched(write_film(tmp_path / "a.mp4", [RED.pixels(320, 180)]))
    assert (scene.start, middle(scene)) == (0, "red")
    assert end == pytest.approx(0.04)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_pictures_that_move_are_films(tmp_path: Path, name: str) -> None:
    images = [what.image(160, 90) for what in (RED, RED, BLUE, GREEN)]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=[400, 800, 1500, 700], loop=0)
    found, end = watched(tmp_path / name)
    assert [(scene.start, middle(scene)) for scene in found] == [(0, "red"), (1.2, "blue"), (2.7, "green")]
    assert end == pytest.approx(3.4)


@pytest.mark.parametrize("gop", [250, 20])
@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_watching_goes_on_from_any_scene(tmp_path: Path, name: str, gop: int) -> None:
    path = write_film(tmp_path / name, stills(SHOWN), scene_cuts=False, gop=gop)
    whole, end = watched(path)
    for done, scene in enumerate(whole, 1):
        rest, again = watched(path, known_at=scene.at)
        assert [one.start for one in rest] == pytest.approx([one.start for one in whole[done:]])
        assert again == end


def test_memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    """Python's; 50 s and 500 s of a film that is decoded whole."""
    peaks = []
    for seconds in (50, 500):
        path = write_film(tmp_path / f"{seconds}.mp4", stills([(RED, seconds)], rate=5), rate=5, scene_cuts=False)
        tracemalloc.start()
        watched(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 + 1_000_000


def test_where_keyframes_are_dense_little_is_decoded(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", stills([(RED, 30), (BLUE, 30)]), scene_cuts=False, gop=25)
    with film(path) as shown:
        seen = 0
        for look in shown.looks(1.0):
            seen += look is not None
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))
        whole = [stride for stride in strides(packets, 1.0) if stride.whole]
    assert 60 <= seen <= 62 + 25
    assert sum(len(stride.packets) for stride in whole) <= 25


@pytest.mark.parametrize("brand", [b"msf1", b"hevc"])
def test_a_sequence_of_heif_is_a_film(tmp_path: Path, brand: bytes) -> None:
    """As phones write bursts; the main picture of one that also has a still is read as that picture."""
    path = write_film(tmp_path / "a.mp4", stills([(RED, 2.0), (BLUE, 2.0)]))
    whole = path.read_bytes()
    assert whole[4:8] == b"ftyp"
    path.write_bytes(whole[:8] + brand + whole[12:])
    assert pictures.read(path) is None
    assert starts(path) == [0, 2.0]


def test_others_have_a_turn_often(tmp_path: Path) -> None:
    """Between two turns lie at most 32 frames."""
    path = write_film(tmp_path / "a.mp4", stills([(RED, 40)]), scene_cuts=False)
    with film(path) as shown:
        turns = sum(1 for step in shown.looks(30.0) if step is None)
    assert turns >= 1000 / 32


def test_sound_alone_has_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(NoVideo, match="no pictures"):
        watched(write(tmp_path / "a.mp3", beep(2, at=1), "libmp3lame"))


def with_cover(path: Path) -> Path:
    """A song with an album's picture in it."""
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("flac", rate=48_000, layout="mono")
        cover: Any = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(RED.pixels(64, 64), "rgb24")))
        frame = av.AudioFrame.from_ndarray((beep(1, at=0.5)[None] * 30_000).astype(np.int16), "s16", "mono")
        frame.sample_rate, frame.pts = 48_000, 0
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def test_an_albums_cover_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(NoVideo):
        watched(with_cover(tmp_path / "a.flac"))


def test_sound_that_outlasts_the_pictures_counts(tmp_path: Path) -> None:
    _, end = watched(write(tmp_path / "a.mp4", beep(6, at=1), "aac", video=2))
    assert end == pytest.approx(6, abs=0.1)


def test_files_without_a_film_in_them_are_unsupported(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "film.mp4", stills([(RED, 4)])).read_bytes()
    noise = np.random.default_rng(0).bytes(50_000)
    header = whole[: whole.index(b"mdat") + 4]
    for name, content in {
        "empty.mp4": b"",
        "text.png": b"This is a letter, no picture.\n" * 100,
        "truncated.mp4": whole[: len(whole) // 2],
        "noise.mp4": noise,
        "header.mp4": header,
        "page.html": b"<html><body>404</body></html>",
        "hls.mp4": b"#EXTM3U\n#EXTINF:2.0,\nfilm.mp4\n#EXT-X-ENDLIST\n",
        "concat.mkv": b"ffconcat version 1.0\nfile film.mp4\n",
        "frames%03d.png": b"\x89PNG\r\n\x1a\n" + noise,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnsupportedMedia) as refused:
            watched(tmp_path / name)
        assert str(tmp_path) not in str(refused.value.answer()), name


def test_a_film_without_frames_is_unsupported(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mkv", [RED.pixels(320, 180)])
    raw = path.read_bytes()
    for name, content in {"none.mkv": raw[: raw.index(b"\x1f\x43\xb6\x75")], "a.y4m": b"YUV4MPEG2 W64 H64\n"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnsupportedMedia):
            watched(tmp_path / name)


def test_a_film_cut_short_is_watched_up_to_there(tmp_path: Path) -> None:
    noise = noisy(stills([(RED, 4), (BLUE, 4)]), 20)
    path = write_film(tmp_path / "a.mkv", noise, scene_cuts=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    found, end = watched(path)
    assert [round(scene.start, 2) for scene in found] == [0, 4]
    assert 5 < end < 7


def test_damage_costs_only_what_was_damaged(tmp_path: Path) -> None:
    frames = noisy(stills([(RED, 6), (BLUE, 6)]))
    path = write_film(tmp_path / "a.ts", frames, scene_cuts=False, gop=25)
    raw = bytearray(path.read_bytes())
    for place in (0.2, 0.3, 0.8):
        raw[int(len(raw) * place) :][:400] = bytes(400)
        raw[int(len(raw) * place) : int(len(raw) * place) + 400] = bytes(400)
    path.write_bytes(raw)
    found, end = watched(path)
    assert end == pytest.approx(12, abs=0.2)
    assert {middle(scene) for scene in found} == {"red", "blue"}


def test_damaged_films_never_crash(tmp_path: Path) -> None:
    """Every one is watched or refused with a typed error."""
    rng = np.random.default_rng(0)
    for name in ("a.mp4", "a.mkv", "a.ts", "a.avi"):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        whole = write_film(tmp_path / name, stills([(RED, 2), (BLUE, 2)], rate=10, size=(96, 64)), rate=10, codec=codec)
        good = np.frombuffer(whole.read_bytes(), np.uint8)
        for _ in range(15):
            raw = good.copy()
            places = rng.integers(0, len(raw), 1 + len(raw) // 300)
            raw[places] = rng.integers(0, 256, len(places))
            whole.write_bytes(raw.tobytes())
            try:
                watched(whole)
            except ServiceError as exc:
                assert str(tmp_path) not in exc.message


def test_frames_of_absurd_size_are_refused(tmp_path: Path) -> None:
    wide = Image.new("RGB", (9_000, 5_000))
    wide.save(tmp_path / "wide.jpg", quality=1)
    with av.open(str(tmp_path / "wide.mkv"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 9_000, 5_000, "yuvj420p"
        packet = av.Packet((tmp_path / "wide.jpg").read_bytes())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 1)
        packet.is_keyframe = True
        container.mux(packet)
    with pytest.raises((TooLarge, UnsupportedMedia), match="40 million"):
        watched(tmp_path / "wide.mkv")


# The rules of scenes alone, on made-up looks


def test_one_changed_cell_is_alike_and_a_hundred_are_not() -> None:
    plain = np.full((54, 96, 3), 100, np.uint8)
    spot, patch = plain.copy(), plain.copy()
    spot[3, 3] = 255
    patch[:10, :10] = 255
    assert alike(plain, spot)
    assert alike(plain, plain + 20)
    assert not alike(plain, patch)


def looks_of(shades: Sequence[int], known_at: float | None = None) -> list[tuple[float, float]]:
    """(start, at) of the scenes of plain frames, one a second, each looked at."""

    def look(time: int, shade: int) -> Look:
        seen = Seen(float(time), np.full((9, 16, 3), shade, np.uint8))
        return Look(seen.time, seen.thumb, lambda: None, lambda: [None, seen])  # type: ignore[arg-type, return-value]

    found = scenes((look(time, shade) for time, shade in enumerate(shades)), known_at)
    return [(scene.start, scene.at) for scene in found if scene]


def test_scenes_follow_their_rules() -> None:
    assert looks_of([]) == []
    assert looks_of([9]) == [(0, 0)]
    assert looks_of([9, 9, 9]) == [(0, 0)]
    assert looks_of([0, 200, 0]) == [(0, 0), (1, 1), (2, 2)]
    assert looks_of([0, 0, 20, 40, 60, 80, 80]) == [(0, 0), (3, 3), (5, 5)]  # compared with what was kept
    assert looks_of([0, 200, 200], known_at=0.0) == [(1, 1)]
    assert looks_of([0, 200, 200], known_at=-1.0) == [(0, 0), (1, 1)]  # not where the earlier run stood
