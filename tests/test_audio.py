"""Any file that players play becomes 16 kHz mono on the player's clock; anything else is refused with a sentence."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from contract.errors import NoAudio, ServiceError, UnsupportedMedia
from media.audio import BLOCK_SAMPLES, SAMPLE_RATE, decode
from media.container import probe
from media.kinds import FORMATS
from tests.recordings import EXAMPLE, Samples, beep, heard_at, write
from tests.shapes import drawing


def whole(path: Path) -> Samples:
    return np.concatenate(list(decode(path)))


def wav_header(channels: int, rate: int) -> bytes:
    data = b"\1\2" * 40_000
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 0, channels * 2 & 0xFFFF, 16)
    size = struct.pack("<I", 36 + len(data))
    return b"RIFF" + size + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.wav", "pcm_f32le"),
        ("a.flac", "flac"),
        ("a.mp3", "libmp3lame"),
        ("a.m4a", "aac"),
        ("a.mp4", "libmp3lame"),
        ("a.mov", "pcm_s16be"),
        ("a.ogg", "libopus"),
        ("a.webm", "libopus"),
        ("a.mkv", "aac"),
        ("a.avi", "libmp3lame"),
        ("a.ts", "aac"),
        ("a.mpg", "mp2"),
        ("a.aac", "aac"),
        ("a.wma", "mp2"),
        ("a.flv", "aac"),
        ("a.aiff", "pcm_s16be"),
        ("a.au", "pcm_s16be"),
        ("a.caf", "pcm_s16le"),
        ("a.w64", "pcm_s16le"),
        ("a.ac3", "ac3"),
        ("a.tta", "tta"),
        ("a.wv", "wavpack"),
    ],
)
def test_common_containers_and_codecs_are_decoded_in_time(tmp_path: Path, name: str, codec: str) -> None:
    """The right length, and a tone where it was put; without a suffix too, as uploads come."""
    path = write(tmp_path / name, np.stack([beep(3, at=1.5)] * 2), codec)
    audio = whole(path.rename(tmp_path / "upload"))
    assert len(audio) / SAMPLE_RATE == pytest.approx(3, abs=0.1)
    assert heard_at(audio) == pytest.approx(1.5, abs=0.06)
    assert audio.dtype == np.float32
    assert np.abs(audio).max() == pytest.approx(0.5, abs=0.1)


def test_example_is_eleven_seconds() -> None:
    assert len(whole(EXAMPLE)) == 11 * SAMPLE_RATE
    assert probe(EXAMPLE).duration == 11.0


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_sound_comes_at_the_rate_that_is_asked_for(tmp_path: Path, rate: int) -> None:
    """Blocks of ten seconds at any rate, and the silence of a late start counted in its samples."""
    path = write(tmp_path / "a.mkv", beep(21, at=12), "aac", start=0.15, video=24)
    blocks = list(decode(path, rate))
    assert [len(block) for block in blocks[:-1]] == [10 * rate] * 2
    audio = np.concatenate(blocks)
    assert len(audio) / rate == pytest.approx(21.15, abs=0.1)
    assert heard_at(audio, rate) == pytest.approx(12.15, abs=0.05)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
def test_sound_that_starts_late_keeps_the_players_clock(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, beep(3, at=1), "aac", start=2, video=5)
    audio = whole(path)
    assert heard_at(audio) == pytest.approx(3, abs=0.1)
    assert len(audio) / SAMPLE_RATE == pytest.approx(5, abs=0.1)


def test_sound_alone_that_starts_late_starts_at_zero(tmp_path: Path) -> None:
    """A transport stream cut out of a broadcast begins anywhere; players show 0:00."""
    path = write(tmp_path / "a.ts", beep(3, at=1), "aac", start=1000)
    assert heard_at(whole(path)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.ogg", "libopus"), ("a.ts", "aac")])
def test_damage_in_the_middle_costs_only_what_was_damaged(tmp_path: Path, name: str, codec: str) -> None:
    hiss = np.random.default_rng(0).normal(0, 0.01, 20 * 48_000).astype(np.float32)
    path = write(tmp_path / name, beep(20, at=15) + hiss, codec)
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 600] = bytes(600)
    path.write_bytes(raw)
    audio = whole(path)
    assert len(audio) / SAMPLE_RATE == pytest.approx(20, abs=0.5)
    loudness = np.convolve(np.square(audio), np.ones(SAMPLE_RATE // 2), mode="valid")  # damage may leave a click
    assert loudness.argmax() / SAMPLE_RATE == pytest.approx(15, abs=0.5)


def test_format_may_change_in_the_middle(tmp_path: Path) -> None:
    stereo = write(tmp_path / "a.mp3", np.stack([beep(2, at=1, rate=44_100)] * 2), "libmp3lame", 44_100)
    mono = write(tmp_path / "b.mp3", beep(2, at=1, rate=22_050), "libmp3lame", 22_050)
    stereo.write_bytes(stereo.read_bytes() + mono.read_bytes())
    audio = whole(stereo)
    assert len(audio) / SAMPLE_RATE == pytest.approx(4, abs=0.2)
    assert heard_at(audio[2 * SAMPLE_RATE :]) == pytest.approx(1, abs=0.2)


def test_decoding_streams_in_bounded_blocks(tmp_path: Path) -> None:
    """Ten minutes: 38 MB of samples, of which a few blocks are held."""
    path = write(tmp_path / "long.flac", np.zeros(600 * SAMPLE_RATE, np.float32), "flac", SAMPLE_RATE)
    tracemalloc.start()
    try:
        sizes = [len(block) for block in decode(path)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) == 600 * SAMPLE_RATE
    assert max(sizes) == BLOCK_SAMPLES
    assert peak < 8 * 4 * BLOCK_SAMPLES


def test_probe_tells_sound_from_picture(tmp_path: Path) -> None:
    film = probe(write(tmp_path / "film.mp4", beep(2, at=1), "aac", video=2))
    assert (film.has_audio, film.has_video) == (True, True)
    assert film.duration == pytest.approx(2, abs=0.1)
    silent = probe(write(tmp_path / "silent.mp4", None, video=1))
    assert (silent.has_audio, silent.has_video) == (False, True)


def test_video_without_sound_is_no_audio(tmp_path: Path) -> None:
    with pytest.raises(NoAudio, match="no sound"):
        whole(write(tmp_path / "silent.mp4", None, video=1))


def test_files_without_sound_in_them_are_unsupported(tmp_path: Path) -> None:
    film = write(tmp_path / "film.mp4", beep(2, at=1), "aac", video=2).read_bytes()
    assert film.index(b"moov") > len(film) // 2  # so that cutting the file loses its index
    noise = np.random.default_rng(0).bytes(100_000)
    for name, content in {
        "empty.wav": b"",
        "text.mp3": b"This is a letter, not a song.\n" * 1000,
        "text.wav": b"RIFF but no wave",
        "truncated.mp4": film[: len(film) // 2],
        "noise.mp3": noise,
        "noise.mp4": noise,
        "picture.png": b"\x89PNG\r\n\x1a\n" + noise,
        "page.html": b"<html><body>404</body></html>",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UnsupportedMedia) as refused:
            whole(path)
        assert str(tmp_path) not in str(refused.value.answer()), name


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "This file is empty"),
        (b"<!DOCTYPE html>\n<title>Nicht gefunden</title>", "holds text"),
        ("Grüße, 世界\n".encode() * 900, "holds text"),
        (b"#EXTM3U\n#EXTINF:2,\na.ts\n", "holds text"),
        (bytes(range(256)) * 40, "no audio, video or picture"),
    ],
)
def test_what_is_no_recording_is_told_what_it_is(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "talk.mp4").write_bytes(content)
    with pytest.raises(UnsupportedMedia, match=sentence):
        whole(tmp_path / "talk.mp4")


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp", "avif", "heif", "tiff", "bmp"])
def test_a_picture_is_told_where_it_belongs(tmp_path: Path, kind: str) -> None:
    drawing("red circle").image(64, 64).save(tmp_path / "talk.mp4", kind)
    for read in (whole, probe):
        with pytest.raises(UnsupportedMedia, match=r"picture.*`flrnc`"):
            read(tmp_path / "talk.mp4")


def test_a_file_never_makes_the_server_open_another(tmp_path: Path) -> None:
    """Playlists, whatever they are called: HLS, concat, DASH, SDP."""
    write(tmp_path / "secret.wav", beep(2, at=1))
    secret = tmp_path / "secret.wav"
    playlists = {
        "hls.mp4": f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2.0,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "concat.mp3": "ffconcat version 1.0\nfile secret.wav\n",
        "d.mp4": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{secret}</BaseURL></MPD>',
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UnsupportedMedia):
            whole(tmp_path / name)
    assert not {"hls", "concat", "dash", "sdp", "rtp", "rtsp", "image2", "lavfi"} & set(FORMATS)


@pytest.mark.parametrize(("channels", "rate"), [(1, 1), (1, 2_000_000_000), (65_535, 16_000), (256, 48_000), (1, 0)])
def test_made_up_headers_are_refused(tmp_path: Path, channels: int, rate: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav_header(channels, rate))
    with pytest.raises(UnsupportedMedia):
        whole(path)


def test_file_that_went_away_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as refused:
        whole(tmp_path / "gone.wav")
    assert refused.value.code == "FILE_NOT_FOUND"
