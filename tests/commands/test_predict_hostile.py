"""`agegender predict` and 200 hostile files among good ones: each is named, and the rest is predicted."""

import csv
import io
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agegender_jax.predictor import WITHOUT_FACE
from agegender_jax.synthetic.faces import generate_face
from tests.tfds_builders.files import png_header
from tfds_builders.archive import MAX_FILE_BYTES

Command = Callable[..., int]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stored = io.BytesIO()
    image.save(stored, kind, **options)
    return stored.getvalue()


def hostile(folder: Path) -> tuple[set[str], set[str]]:
    """Writes 200 files, some of which can be predicted and some not: the names of either."""
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (60, 50, 3)).astype(np.uint8))
    whole = {kind: _encoded(scene, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")}
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [scene.rotate(angle) for angle in (30, 60)]
    grey16 = Image.fromarray(rng.integers(0, 65536, (40, 40)).astype(np.uint16))
    good = {
        "cmyk.jpg": _encoded(scene.convert("CMYK"), "JPEG"),
        "rotated.jpg": _encoded(scene, "JPEG", exif=exif),
        "16-bit.png": _encoded(grey16, "PNG"),
        "animated.png": _encoded(scene, "PNG", save_all=True, append_images=frames),
        "animated.webp": _encoded(scene, "WEBP", save_all=True, append_images=frames),
        "palette.png": _encoded(scene.convert("P"), "PNG"),
        "one bit.png": _encoded(scene.convert("1"), "PNG"),
        "transparent.png": _encoded(scene.convert("RGBA"), "PNG"),
        "lab.tif": _encoded(scene.convert("LAB"), "TIFF"),
        "ycbcr.jpg": _encoded(scene.convert("YCbCr"), "JPEG"),
        "progressive.jpg": _encoded(scene, "JPEG", progressive=True),
        "one pixel.png": _encoded(Image.new("RGB", (1, 1)), "PNG"),
        "thin.png": _encoded(Image.new("RGB", (3000, 1)), "PNG"),
        "trailing.jpg": whole["JPEG"] + b"\0" * 999,
        "wrong suffix.txt": whole["PNG"],
        "=1+1.png": whole["PNG"],
        "+1.png": whole["PNG"],
        "-1.png": whole["PNG"],
        "@x.png": whole["PNG"],
        "two\nlines.png": whole["PNG"],
        'quo"te,s.png': whole["PNG"],
        "bad exif.jpg": whole["JPEG"][:2] + b"\xff\xe1\x00\x10Exif\0\0" + b"\xff" * 8 + whole["JPEG"][2:],
    }
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"Dear reader,\n",
        "gif.gif": _encoded(scene, "GIF"),
        "svg.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "script.png": b"#!/bin/sh\nrm -rf /\n",
        "float.tif": _encoded(Image.new("F", (9, 9)), "TIFF"),
        "zip.jpg": b"PK\x03\x04" + b"\0" * 200,
        "no pixels.png": png_header(0, 0),
        "no height.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 9, 0, 1, 24, 0, 0, 0, 0, 0, 0),
    }
    for width, height in ((2**31 - 1, 2**31 - 1), (100_000, 100_000), (64_000_001, 1), (8001, 8000), (1, 2**31 - 1)):
        bad[f"claims {width}x{height}.png"] = png_header(width, height)
    bmp = bytearray(whole["BMP"])
    bmp[18:26] = struct.pack("<ii", 90_000, 90_000)
    bad["claims much.bmp"] = bytes(bmp)
    for kind, content in whole.items():
        for share in (0.01, 0.1, 0.3, 0.5, 0.7):
            bad[f"cut at {share}.{kind}"] = content[: max(1, int(share * len(content)))]
    for number in range(40):
        bad[f"noise {number}.jpg"] = rng.bytes(int(rng.integers(1, 4000)))
        bad[f"start {number}.png"] = whole["PNG"][:30] + rng.bytes(200)
    for folder_name in ("folder.jpg", "linked"):
        (folder / folder_name).mkdir(parents=True)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "absent")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    (folder / "folder link.jpg").symlink_to(folder / "linked")
    (folder / "null.jpg").symlink_to("/dev/zero")
    with open(folder / "large.jpg", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    special = {"pipe.jpg", "nowhere.jpg", "itself.jpg", "folder link.jpg", "null.jpg", "large.jpg"}
    closed = "closed.png"
    (folder / closed).write_bytes(whole["PNG"])
    (folder / closed).chmod(0)
    count = 200 - len(good) - len(bad) - len(special) - 1
    assert count > 0
    good |= {f"face {number}.jpg": whole["JPEG"] for number in range(count)}
    for name, content in (good | bad).items():
        (folder / name).write_bytes(content)
    good_names, refused = set(good), set(bad) | special
    (good_names if os.access(folder / closed, os.R_OK) else refused).add(closed)
    return good_names, refused


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Iterator[tuple[Path, set[str], set[str]]]:
    folder = tmp_path / "in"
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        good_names, refused = hostile(folder)
        os.chdir(folder)  # the name of a socket must be short
        server.bind("socket.jpg")
        os.chdir(here)
        yield folder, good_names, refused | {"socket.jpg"}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--detect",)], ids=["whole", "detect"])
def test_hostile_files(
    options: tuple[str, ...], hostile_folder: tuple[Path, set[str], set[str]], predict_files: Command, tmp_path: Path
) -> None:
    folder, good_names, refused = hostile_folder
    assert len(good_names | refused) == 201
    face = np.pad(generate_face(np.random.default_rng(0), age=30, gender=0), ((60, 60), (60, 60), (0, 0)), "edge")
    Image.fromarray(face).save(folder / "zz.png")
    assert predict_files(folder, "--out", tmp_path / "out.csv", *options) == 0
    rows = {row["file"].lstrip("'")[len(str(folder)) + 1 :]: row for row in rows_of(tmp_path / "out.csv")}
    assert set(rows) == good_names | refused | {"zz.png"}
    assert list(rows) == sorted(rows)
    for name in refused:
        assert rows[name]["error"], name
        assert not rows[name]["error"].startswith(str(folder))
        assert {rows[name][column] for column in ("gender", "age", "age_group_0-2")} == {""}
    for name in good_names:
        assert rows[name]["error"] == (WITHOUT_FACE if options else "")
        assert bool(rows[name]["age"]) == (not options)
    assert rows["zz.png"]["gender"] in ("male", "female")
    if not options:
        assert rows["=1+1.png"]["age"] == rows["two\nlines.png"]["age"]
    for name, reason in (("claims 8001x8000.png", "8001x8000"), ("pipe.jpg", "pipe"), ("large.jpg", "67,108,864")):
        assert reason in rows[name]["error"]
