"""Every kind of image and mask file, built with PIL from known pixels."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import tomllib
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cosam_bench.core.errors import CosamError
from cosam_bench.data.decoding import (
    ORIENTATION,
    decode_ignored,
    decode_image,
    decode_mask,
    is_lossy,
    read_mask_content,
    upright_size,
)
from cosam_bench.data.foreground import Foreground, ProtocolForeground
from cosam_bench.data.ignored import Ignored

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
MASK = GREY > 127
AUTO = Foreground()


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    decoded = decode_image(data, name="x")
    assert decoded.dtype == torch.uint8
    assert decoded.is_contiguous()
    return decoded.permute(1, 2, 0).numpy()


def mask_of(data: bytes, foreground: object = "auto") -> np.ndarray:
    decoded = decode_mask(data, name="x", foreground=Foreground.model_validate(foreground))
    assert decoded.dtype == torch.bool
    return decoded.numpy()


def grey_as_rgb(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, axis=2)


def smooth(height: int = 64, width: int = 64) -> np.ndarray:
    """A picture that JPEG keeps within a few levels."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 2 + 60, columns * 2 + 60, 255 - rows - columns], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_rgb(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (pixels(encoded(Image.fromarray(RGB), kind, **options)) == RGB).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "GIF"])
def test_grey(kind: str) -> None:
    assert (pixels(encoded(Image.fromarray(GREY), kind)) == grey_as_rgb(GREY)).all()


def test_one_bit() -> None:
    expected = grey_as_rgb(MASK * np.uint8(255))
    assert (pixels(encoded(Image.fromarray(MASK))) == expected).all()


def test_alpha_is_dropped() -> None:
    alpha = RNG.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    rgba = Image.fromarray(np.concatenate([RGB, alpha], axis=-1))
    assert (pixels(encoded(rgba)) == RGB).all()
    grey_alpha = Image.fromarray(np.concatenate([GREY[..., None], alpha], axis=-1))
    assert grey_alpha.mode == "LA"
    assert (pixels(encoded(grey_alpha)) == grey_as_rgb(GREY)).all()


def test_palette_with_and_without_transparency() -> None:
    palette = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GREY)
    image.putpalette(palette.tobytes())
    assert (pixels(encoded(image)) == palette[GREY]).all()
    assert (pixels(encoded(image, transparency=bytes(range(256)))) == palette[GREY]).all()


def test_sixteen_bit_grey_is_divided_by_257() -> None:
    levels = np.array([[0, 128, 129, 257, 385, 386, 32767, 32768, 65407, 65535]], dtype=np.uint16)
    expected = np.array([[0, 0, 1, 1, 1, 2, 127, 128, 255, 255]])  # round(level / 257), by hand
    for kind in ("PNG", "TIFF"):
        assert (pixels(encoded(Image.fromarray(levels), kind)) == grey_as_rgb(expected)).all()
    graymap = b"P5 10 1 65535\n" + levels.astype(">u2").tobytes()
    assert (pixels(graymap) == grey_as_rgb(expected)).all()


def test_sixteen_bit_rgb_png() -> None:
    """PIL writes none, so the file is put together here: one row of two pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = np.array([[0, 32768, 65535], [257, 514, 12850]], dtype=">u2")
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    body = zlib.compress(b"\0" + row.tobytes())
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert (pixels(data) == [[[0, 128, 255], [1, 2, 50]]]).all()


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_also_when_adobe_inverted(kind: str) -> None:
    inks = np.full((16, 16, 4), [200, 40, 0, 64], dtype=np.uint8)
    data = encoded(Image.frombytes("CMYK", (16, 16), inks.tobytes()), kind)
    assert kind == "TIFF" or b"Adobe" in data
    share = 1 - inks[0, 0].astype(float) / 255
    expected = 255 * share[:3] * share[3]
    assert np.abs(pixels(data).astype(float) - expected).max() <= 3


def test_cmyk_jpeg_of_unknown_polarity_is_refused() -> None:
    data = encoded(Image.new("CMYK", (16, 16)), "JPEG")
    start = data.index(b"\xff\xeeA") if b"\xff\xeeA" in data else data.index(b"\xff\xee")
    size = struct.unpack(">H", data[start + 2 : start + 4])[0]
    with pytest.raises(CosamError, match="x is a CMYK JPEG that does not say whether it is inverted"):
        decode_image(data[:start] + data[start + 2 + size :], name="x")


def seen_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The meaning of EXIF's eight values, pixel by pixel: where row 0 and column 0 are seen."""
    height, width = stored.shape[:2]
    turned = orientation >= 5
    seen = np.zeros((width, height) if turned else (height, width), dtype=stored.dtype)
    for row in range(height):
        for column in range(width):
            end_row, end_column = height - 1 - row, width - 1 - column
            place = {
                1: (row, column),  # row 0 is the top, column 0 the left
                2: (row, end_column),  # top, right
                3: (end_row, end_column),  # bottom, right
                4: (end_row, column),  # bottom, left
                5: (column, row),  # row 0 is the left, column 0 the top
                6: (column, end_row),  # row 0 is the right, column 0 the top
                7: (end_column, end_row),  # right, bottom
                8: (end_column, row),  # left, bottom
            }[orientation]
            seen[place] = stored[row, column]
    return seen


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_of_images_and_masks(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"exif": exif} | ({"lossless": True} if kind == "WEBP" else {})
    data = encoded(Image.fromarray(grey_as_rgb(GREY)), kind, **options)
    expected = seen_upright(GREY, orientation)
    assert (pixels(data)[..., 0] == expected).all()
    assert upright_size(data, name="x") == expected.shape
    mask_file = encoded(Image.fromarray(grey_as_rgb(MASK * np.uint8(255))), kind, **options)
    assert (mask_of(mask_file) == seen_upright(MASK, orientation)).all()


def test_a_single_column_can_be_turned() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    column = np.array([[1], [2], [3]], np.uint8)
    assert pixels(encoded(Image.fromarray(column), exif=exif))[:, 0, 0].tolist() == [3, 2, 1]


def test_orientation_of_a_jpeg() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture = smooth(32, 64)
    data = encoded(Image.fromarray(picture), "JPEG", quality=95, exif=exif)
    assert upright_size(data, name="x") == (64, 32)
    expected = np.rot90(picture, -1)
    assert np.abs(pixels(data).astype(int) - expected).max() < 12


def test_orientation_that_means_nothing_is_passed_over() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 9
    assert (pixels(encoded(Image.fromarray(RGB), exif=exif)) == RGB).all()


REFUSED = {
    "float": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "type 'F'"),
    "deep": (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "type 'I'"),
    "animated": (
        encoded(Image.fromarray(RGB), "GIF", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        "2 frames",
    ),
    "truncated": (encoded(Image.fromarray(smooth()), "JPEG")[:-200], "is damaged"),
    "cut png": (encoded(Image.fromarray(RGB))[:-30], "is damaged"),
    "text": (b"no image at all", "not an image in one of the formats"),
    "empty": (b"", "not an image in one of the formats"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "is a pointer of Git LFS"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    data, reason = REFUSED[case]
    with pytest.raises(CosamError, match=f"photo.jpg .*{reason}"):
        decode_image(data, name="photo.jpg")
    with pytest.raises(CosamError, match=f"photo.jpg .*{reason}"):
        decode_mask(data, name="photo.jpg", foreground=AUTO)


@pytest.mark.parametrize("share", [0.4, 0.7])  # of the size: PIL raises beyond twice its limit, warns below
def test_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(5 * 7 * share))
    with pytest.raises(CosamError, match=r"x has more than \d+ pixels"):
        decode_image(encoded(Image.fromarray(RGB)), name="x")


@pytest.mark.filterwarnings("ignore")  # PIL warns of odd headers
@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP"]),
    places=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damage_is_refused_or_decoded_but_never_a_crash(kind: str, places: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(smooth(16, 16)), kind))
    for place, value in places:
        data[place % len(data)] = value
    with contextlib.suppress(CosamError):
        decode_image(bytes(data), name="x")
    with contextlib.suppress(CosamError):
        decode_mask(bytes(data), name="x", foreground=AUTO)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.fromarray(MASK), MASK, id="one bit"),
        pytest.param(Image.fromarray(MASK * np.uint8(255)), MASK, id="0 and 255"),
        pytest.param(Image.fromarray(MASK * np.uint8(1)), MASK, id="0 and 1"),
        pytest.param(Image.fromarray(MASK * np.uint16(65535)), MASK, id="16 bit"),
        pytest.param(Image.fromarray(MASK * np.uint16(1)), MASK, id="16 bit, 0 and 1"),
        pytest.param(Image.fromarray(MASK * np.uint16(255)), MASK, id="16 bit, 0 and 255"),
        pytest.param(Image.fromarray(GREY), GREY >= 128, id="soft grey"),
        pytest.param(Image.fromarray(grey_as_rgb(MASK * np.uint8(255))), MASK, id="neutral rgb"),
        pytest.param(Image.fromarray(np.zeros((4, 4), np.uint8)), np.zeros((4, 4), bool), id="black"),
    ],
)
def test_masks_that_speak_for_themselves(image: Image.Image, expected: np.ndarray) -> None:
    assert (mask_of(encoded(image)) == expected).all()


def test_mask_in_a_grey_jpeg_is_cut_in_the_middle() -> None:
    disc = np.hypot(*(np.mgrid[:64, :64] - 32)) < 20
    data = encoded(Image.fromarray(disc * np.uint8(255)), "JPEG", quality=60)
    levels = np.asarray(Image.open(io.BytesIO(data)))
    assert len(np.unique(levels)) > 10
    assert (mask_of(data) == (levels >= 128)).all()
    assert (mask_of(data) == disc).mean() > 0.99
    in_colour = encoded(Image.fromarray(grey_as_rgb(disc * np.uint8(255))), "JPEG", quality=60)
    assert (mask_of(in_colour) == disc).mean() > 0.99
    assert not mask_of(encoded(Image.new("L", (64, 64), 3), "JPEG")).any()


@pytest.mark.parametrize("rule", ["nonzero", {"values": [255]}, {"above": 0}, {"colours": [[255, 0, 0]]}], ids=str)
def test_exact_levels_of_a_lossy_mask_are_refused(rule: object) -> None:
    disc = np.hypot(*(np.mgrid[:64, :64] - 32)) < 20
    red = np.zeros((64, 64, 3), dtype=np.uint8)
    red[disc] = (254, 0, 0)
    data = encoded(Image.fromarray(red), "JPEG", quality=85)
    channel = {} if isinstance(rule, dict) and "colours" in rule else {"channel": "red"}
    asked = {"rule": "nonzero", **channel} if rule == "nonzero" else {**rule, **channel}  # type: ignore[dict-item]
    with pytest.raises(CosamError, match=r"x is a JPEG, whose compression changes levels.*Save masks as PNG"):
        mask_of(data, asked)
    assert (mask_of(data, {"above": 127, "channel": "red"}) == disc).mean() > 0.99
    published = ProtocolForeground.model_validate(asked)  # as a paper's code read them
    assert decode_mask(data, name="x", foreground=published).sum() != disc.sum()


DISC = np.hypot(*(np.mgrid[:64, :64] - 32)) < 20
DISC.setflags(write=False)


def disc_of(*colour: int) -> Image.Image:
    """A disc of one level or colour on black."""
    pixels = DISC[..., None] * np.array(colour, np.uint8)
    return Image.fromarray(pixels[..., 0] if len(colour) == 1 else pixels)


@pytest.mark.parametrize(
    "data",
    [
        encoded(disc_of(3), "WEBP", lossless=True),
        encoded(disc_of(3), "WEBP", lossless=True, exif=Image.Exif(), icc_profile=b"odd"),  # in a VP8X container
        encoded(disc_of(3, 3, 3), "WEBP", lossless=True),
    ],
    ids=["plain", "extended", "rgb"],
)
def test_a_lossless_webp_is_exact(data: bytes) -> None:
    for rule in ({"values": [3]}, "nonzero", {"above": 2}, {"colours": [[3, 3, 3]]}):
        assert (mask_of(data, rule) == DISC).all()
    with pytest.raises(CosamError, match=r"class ids.*values = \[3\]"):
        mask_of(data)
    ignored = decode_ignored(data, name="x", foreground=AUTO, ignore=Ignored.model_validate(3))
    assert (ignored.numpy() == DISC).all()
    assert not is_lossy(data, name="x")
    assert (mask_of(encoded(disc_of(1), "WEBP", lossless=True)) == DISC).all()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (encoded(disc_of(200), "JPEG"), "a JPEG, whose compression changes levels.*Save masks as PNG"),
        (encoded(disc_of(200), "WEBP"), "a lossy WEBP, whose compression changes levels.*Save masks as PNG"),
        (
            encoded(disc_of(200), "WEBP", exif=Image.Exif(), icc_profile=b"VP8L" * 4),
            "a lossy WEBP, whose compression changes levels",
        ),
        (encoded(disc_of(200), "TIFF", compression="jpeg"), "a TIFF of JPEG's compression, whose compression changes"),
        (
            encoded(disc_of(200), "JPEG2000", irreversible=True),
            "a JPEG2000, whose compression may change levels.*Convert it to PNG if it is lossless",
        ),
        # The reversible wavelet, of which the last bits are left out.
        (encoded(disc_of(200), "JPEG2000", quality_layers=[60]), "a JPEG2000, whose compression may change levels"),
        (encoded(disc_of(200), "JPEG2000"), "a JPEG2000, whose compression may change levels"),
    ],
)
def test_files_that_may_be_lossy_are_refused_in_words_that_are_true(data: bytes, said: str) -> None:
    is_exact = (np.asarray(Image.open(io.BytesIO(data)).convert("L")) == DISC * np.uint8(200)).all()
    assert not is_exact or "may change" in said
    assert is_lossy(data, name="x")
    for rule in ({"values": [200]}, "nonzero"):
        with pytest.raises(CosamError, match=f"x is {said}"):
            mask_of(data, rule)
    with pytest.raises(CosamError, match=f"x is {said.partition('.*')[0]}.*leave ignore out"):
        decode_ignored(data, name="x", foreground=AUTO, ignore=Ignored.model_validate(200))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("colour", [(100,), (40,), (200,), (110, 0, 0), (20, 60, 200), (0, 90, 10)], ids=str)
@pytest.mark.parametrize(
    "rule", ["auto", "undecided", "nonzero", {"values": [100]}, {"colours": [[110, 0, 0]]}, {"above": 5}], ids=str
)
def test_what_is_advised_for_a_lossy_mask_works(kind: str, colour: tuple[int, ...], rule: object) -> None:
    data = encoded(disc_of(*colour), kind, **({"irreversible": True} if kind == "JPEG2000" else {}))
    if rule == "auto" and colour == (200,):
        assert (mask_of(data) == DISC).mean() > 0.98
        return
    with pytest.raises(CosamError) as caught:
        mask_of(data, rule)
    advised = re.findall(r"foreground = \{.*?\}|values = |colours = |nonzero", str(caught.value))
    assert len(advised) == 1
    assert (mask_of(data, tomllib.loads(advised[0])["foreground"]) == DISC).mean() > 0.98


@pytest.mark.parametrize("rule", ["undecided", "nonzero"])
def test_no_cut_is_advised_if_all_levels_may_be_noise(rule: str) -> None:
    with pytest.raises(CosamError, match=r"Save masks as PNG\.$"):
        mask_of(encoded(disc_of(9), "JPEG"), rule)


def paletted(colours: list[list[int]]) -> tuple[bytes, np.ndarray]:
    indices = RNG.integers(0, len(colours), (5, 7), dtype=np.uint8)
    indices[0, : len(colours)] = range(len(colours))
    image = Image.fromarray(indices)
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return encoded(image), indices


def test_palette_masks() -> None:
    data, indices = paletted([[0, 0, 0], [128, 0, 0], [0, 128, 0]])
    assert (mask_of(data) == (indices != 0)).all()
    assert (mask_of(data, "nonzero") == (indices != 0)).all()
    assert (mask_of(data, {"values": [2]}) == (indices == 2)).all()
    assert (mask_of(data, {"colours": [[128, 0, 0], [9, 9, 9]]}) == (indices == 1)).all()
    with pytest.raises(CosamError, match="coloured palette, which has no levels"):
        mask_of(data, {"above": 10})


def test_grey_palette_counts_by_its_colours() -> None:
    data, indices = paletted([[255, 255, 255], [0, 0, 0]])  # white comes first, as some tools write it
    assert (mask_of(data) == (indices == 0)).all()
    assert (mask_of(data, {"above": 100}) == (indices == 0)).all()


def test_alpha_of_masks_is_laid_over_black() -> None:
    white = np.full((5, 7, 3), 255, np.uint8)
    image = Image.fromarray(np.concatenate([white, MASK[..., None] * np.uint8(255)], axis=-1))
    assert (mask_of(encoded(image)) == MASK).all()
    assert (mask_of(encoded(image), {"above": 127, "channel": "alpha"}) == MASK).all()


@pytest.mark.parametrize("behind", [0, 255])
def test_a_black_mask_of_which_only_alpha_shows_anything_is_not_taken_for_empty(behind: int) -> None:
    colours = np.where(MASK[..., None], 0, behind).astype(np.uint8).repeat(3, axis=-1)
    data = encoded(Image.fromarray(np.concatenate([colours, MASK[..., None] * np.uint8(255)], axis=-1)))
    with pytest.raises(CosamError, match=r'x is black, and only its alpha.*foreground = \{ above = 127, channel = "a'):
        mask_of(data)
    assert (mask_of(data, {"above": 127, "channel": "alpha"}) == MASK).all()
    assert not mask_of(data, {"above": 127, "channel": "red"})[MASK].any()


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_an_alpha_channel_that_a_mask_lacks_is_not_made_up(mode: str) -> None:
    data = encoded(Image.fromarray(MASK * np.uint8(255)).convert(mode))
    with pytest.raises(CosamError, match="x has no alpha channel, which foreground reads"):
        mask_of(data, {"above": 127, "channel": "alpha"})
    assert (mask_of(data, {"above": 127, "channel": "red"}) == MASK).all()


def test_the_content_of_a_mask_of_floats_is_not_read() -> None:
    data = encoded(Image.fromarray(MASK.astype(np.float32)), "TIFF")
    with pytest.raises(CosamError, match="x has pixels of type 'F', whose range is not known"):
        read_mask_content(data, name="x")


def test_coloured_masks_need_a_rule() -> None:
    red = np.zeros((5, 7, 3), np.uint8)
    red[MASK] = [255, 0, 0]
    data = encoded(Image.fromarray(red))
    with pytest.raises(CosamError, match="x is a coloured mask"):
        mask_of(data)
    assert (mask_of(data, {"colours": [[255, 0, 0]]}) == MASK).all()
    assert (mask_of(data, {"above": 127, "channel": "red"}) == MASK).all()
    assert not mask_of(data, {"rule": "nonzero", "channel": "green"}).any()


@pytest.mark.parametrize("levels", [[0, 1, 2, 3, 4, 5], [0, 7], [0, 38, 75], [0, 1, 255], [0, 5, 9, 255]])
def test_class_ids_need_a_rule(levels: list[int]) -> None:
    ids = np.resize(np.array(levels, np.uint8), (6, 8))
    data = encoded(Image.fromarray(ids))
    said = rf"x looks like a mask of class ids \(levels 0: .*values = \[{levels[1]}\]"
    with pytest.raises(CosamError, match=said):
        mask_of(data)
    assert (mask_of(data, {"values": levels[1:2]}) == (ids == levels[1])).all()
    assert (mask_of(data, {"above": 4}) == (ids > 4)).all()
    assert (mask_of(data, "nonzero") == (ids != 0)).all()


@given(levels=st.lists(st.integers(0, 255), min_size=4, max_size=4), above=st.integers(0, 256))
def test_explicit_rules_mean_what_they_say(levels: list[int], above: int) -> None:
    image = Image.fromarray(np.array(levels, np.uint8).reshape(2, 2))
    data = encoded(image)
    assert mask_of(data, {"above": above}).flatten().tolist() == [level > above for level in levels]
    assert mask_of(data, "nonzero").flatten().tolist() == [level != 0 for level in levels]
    assert mask_of(data, {"values": [above, 7]}).flatten().tolist() == [lv in (above, 7) for lv in levels]
