"""Faces generated from a seed, packed in UTKFace's own archive format.

The drawings are cartoons: they test the pipeline from end to end, and show nothing about people. How a
synthetic face shows age and gender is a convention of this file (grey hair, wrinkles, beards, long hair), so a score
reached on these faces says nothing about photographs. The race in a file name is random; no image depends on it.

Every cue follows the age gradually, and every face departs from its labels: it looks some years older or younger than
it is, and each cue errs on its own. A model can learn both labels well, and neither perfectly.
"""

import gzip
import io
import tarfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from agegender_jax.progress import progress_bar

# Shares of the release's labels: age in bins of five years (per 10,000), male by age, race.
_AGES = (915, 373, 248, 397, 976, 2110, 975, 933, 504, 448, 571, 408, 311, 244, 160, 136, 100, 117, 43, 15, 7, 2, 2, 3)
_MALE = ((0, 15, 22, 30, 45, 55, 70, 90, 116), (0.49, 0.43, 0.36, 0.50, 0.69, 0.72, 0.62, 0.40, 0.05))
_RACES = (0.425, 0.191, 0.145, 0.168, 0.071)

# The release's own irregular names: three without a race, one with a space, one without a dot.
_IRREGULAR = (
    "39_1_20170116174525125.jpg.chip.jpg",
    "61_1_20170109142408075.jpg.chip.jpg",
    "61_1_20170109150557335.jpg.chip.jpg",
    "24_0_1_20170116220224657 .jpg.chip.jpg",
    "55_0_0_20170116232725357jpg.chip.jpg",
)
_MIN_IRREGULAR = 20  # a smaller archive holds ordinary members alone
_AGREEING, _CONFLICTING = 151 / 23707, 224 / 23707  # groups of identical files in the release, by their labels

_CIRCLE = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_COS, _SIN = np.cos(_CIRCLE), np.sin(_CIRCLE)
_ARC = np.linspace(-1, 1, 13)
_BOW = 1 - _ARC**2
_HAIR = np.array([(28, 22, 20), (52, 34, 24), (92, 60, 36), (140, 100, 58), (196, 160, 100), (140, 66, 34)], float)
_SKIN = np.array([(250, 224, 204), (225, 180, 144), (190, 140, 100), (130, 90, 62), (84, 56, 42)], float)
_IRIS = np.array([(70, 44, 26), (52, 32, 22), (96, 70, 36), (70, 110, 140), (80, 110, 70)], float)
_GREY = np.array((212.0, 212.0, 216.0))


def _mix(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return a + (b - a) * min(max(share, 0.0), 1.0)


def _ramp(value: float, start: float, stop: float) -> float:
    return min(max((value - start) / (stop - start), 0.0), 1.0)


def _squircle(width: float, height: float | np.ndarray, power: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a superellipse: a diamond at power 2, an ellipse at 1, a rectangle at 0."""
    return width * np.sign(_COS) * np.abs(_COS) ** power, height * np.sign(_SIN) * np.abs(_SIN) ** power


class _Face:
    """One face being drawn, in the head's own coordinates: chin at y = 1, crown at y = -1, x to the right."""

    def __init__(self, rng: np.random.Generator, age: float, gender: int, size: int) -> None:
        self.rng, self.size, self.male = rng, size, gender == 0
        self.looks = max(age + rng.normal(0, 0.5 + 0.055 * min(age, 80)), 0.0)
        self.sign = (2 * gender - 1) * (0.3 + 0.7 * _ramp(self.looks, 0, 16))
        self.grown = grown = self.aged(0, 20) ** 0.75

        # Pose, and a background of four muted colours that shade into each other.
        corners = rng.uniform(50, 200) + rng.normal(0, 22, 3) + rng.normal(0, 18, (2, 2, 3))
        self.image = cv2.resize(np.clip(corners, 0, 255).astype(np.uint8), (size, size))
        self.unit, self.yaw, tilt = size * rng.uniform(0.35, 0.415), rng.normal(0, 0.06), rng.normal(0, 0.1)
        self.axes = self.unit * np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        self.centre = size * rng.normal((0.5, 0.51), 0.02)

        tone = rng.integers(len(_SKIN) - 1)
        self.skin = _mix(_SKIN[tone], _SKIN[tone + 1], rng.random()) * rng.uniform(0.92, 1.0)
        self.grey = 0.0 if gender == 1 and rng.random() < 0.15 else self.aged(30, 86)  # some women dye their hair
        natural = _HAIR[rng.integers(len(_HAIR))] * rng.uniform(0.8, 1.15)
        self.hair = _mix(_mix(natural, self.skin, 0.7 * (1 - self.aged(0, 4))), _GREY, self.grey)

        # Round, wide and low-eyed in children; the jaw follows gender, and sags with age.
        self.width = 0.9 - 0.16 * grown + rng.normal(0, 0.025)
        jaw = 2.15 - 0.3 * grown * self.feminine() + 0.35 * self.aged(40, 85)
        self.outline = _squircle(self.width, 1, np.where(_SIN > 0, 2 / max(jaw, 1.5), 0.9))
        self.eye_y, self.mouth_y = rng.normal((0.26 - 0.32 * grown, 0.70 - 0.08 * grown), 0.02)
        self.nose_y = self.eye_y + (self.mouth_y - self.eye_y) * (0.5 + 0.08 * grown + 0.06 * self.aged(30, 90))

    def aged(self, start: float, stop: float) -> float:
        """Returns 0 to 1 as the face ages from `start` to `stop` years, with an error of this cue's own."""
        return _ramp(self.looks + self.rng.normal(0, 0.09) * (stop - start), start, stop)

    def feminine(self) -> float:
        """Returns about 1 for women and -1 for men, nearer to 0 for children, with an error of this cue's own."""
        return self.sign + self.rng.normal(0, 0.5)

    def pixels(self, x: np.ndarray, y: np.ndarray | float, turned: bool = True) -> np.ndarray:
        """Returns points in 1/16 pixel, int32 [n, 2]; the front of the head (`turned`) moves with the yaw."""
        points = np.empty((len(x), 2))
        points[:, 0], points[:, 1] = (x + self.yaw * (1 - np.minimum(x * x, 1)) if turned else x), y
        return (16 * (points @ self.axes + self.centre)).astype(np.int32)

    def fill(self, x: np.ndarray, y: np.ndarray, colour: np.ndarray, turned: bool = True) -> None:
        cv2.fillPoly(self.image, [self.pixels(x, y, turned)], colour.tolist(), cv2.LINE_AA, 4)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: np.ndarray, turned: bool = True) -> None:
        self.fill(x + rx * _COS, y + ry * _SIN, colour, turned)

    def line(self, x: np.ndarray, y: np.ndarray | float, colour: np.ndarray, width: float) -> None:
        thick = max(1, round(width * self.unit))
        cv2.polylines(self.image, [self.pixels(x, y)], False, colour.tolist(), thick, cv2.LINE_AA, 4)

    def draw_head(self) -> None:
        """Draws long hair, neck, clothes, ears; then the skin with its texture, one darker side, and age spots."""
        rng, skin = self.rng, self.skin
        length = min(0.65 * self.feminine() * (1 - 0.35 * self.aged(50, 95)) + 0.1, 1)
        if length > 0.1:
            drop = np.where(_SIN > 0, 0.2 + 1.1 * length, 1.05)
            self.fill(*_squircle(self.width + 0.2, drop, 0.72), self.hair * 0.82, turned=False)
        neck = self.width * (0.42 + self.grown * (0.12 - 0.06 * self.feminine()))
        self.oval(0, 1, neck, 0.9, skin * 0.8, turned=False)
        self.oval(0, 1.75, 1.3 + 0.2 * self.grown, 0.55, rng.integers(20, 235, 3), turned=False)
        ear = 0.16 + 0.06 * self.aged(30, 90)
        for side in (-self.width, self.width):
            self.oval(side, self.eye_y + 0.13, 0.09, ear, skin * 0.88, turned=False)

        self.fill(*self.outline, skin, turned=False)
        mask = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(mask, [self.pixels(*self.outline, turned=False)], 255, cv2.LINE_8, 4)
        relief = 128 + rng.normal(0, 14) * np.linspace(-1, 1, 50) + rng.normal(0, 2 + 10 * self.aged(20, 95), (50, 50))
        grain = cv2.resize(cv2.cvtColor(np.clip(relief, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2RGB), mask.shape)
        cv2.copyTo(cv2.addWeighted(self.image, 1, grain, 1, -128), mask, self.image)
        for x, y, shade in rng.uniform((-0.55, -0.7, 0.62), (0.55, 0.8, 0.8), (rng.poisson(7 * self.aged(45, 95)), 3)):
            self.oval(x, y, 0.025, 0.02, skin * shade)

    def draw_wrinkles(self) -> None:
        """Draws lines on forehead, from the nose, under and beside the eyes: each comes at its own age."""

        def wrinkle(x: np.ndarray, y: np.ndarray, depth: float) -> None:
            if depth > 0.04:
                self.line(x, y, self.skin * (0.92 - 0.4 * depth), 0.016 + 0.018 * depth)

        forehead, folds, bags, crows = self.aged(26, 86), self.aged(20, 72), self.aged(22, 76), self.aged(32, 95)
        for row in range(round(1 + 4 * forehead)):
            y = self.eye_y - 0.33 - 0.1 * row - 0.05 * _BOW + self.rng.normal(0, 0.008, len(_ARC))
            wrinkle(self.width * self.rng.uniform(0.35, 0.6) * _ARC, y, 0.8 * forehead)
        t = (_ARC + 1) / 2
        for side in (-self.width / 0.74, self.width / 0.74):
            wrinkle(side * (0.15 + 0.17 * t), self.nose_y + (self.mouth_y + 0.08 - self.nose_y) * t**1.3, folds)
            wrinkle(side * (0.33 + 0.13 * _ARC), self.eye_y + 0.13 + 0.06 * _BOW, bags)
            for ray in (-1, 0, 1):
                wrinkle(side * (0.52 + 0.11 * t), self.eye_y + 0.09 * ray * (0.5 + t), crows)

    def draw_features(self) -> None:
        """Draws facial hair, mouth, nose, eyes, brows."""
        rng, skin, hair, grown = self.rng, self.skin, self.hair, self.grown
        eye_y, nose_y, mouth_y = self.eye_y, self.nose_y, self.mouth_y
        if self.male and rng.random() < 0.45 * _ramp(self.looks, 15, 24):
            style, cover = rng.integers(3), _mix(skin, hair * 0.9, rng.uniform(0.3, 1.0))
            if style < 2:
                x, y = (half[(_SIN > 0) & (self.outline[1] > nose_y - 0.1)] for half in self.outline)
                top = nose_y + 0.02 + 0.1 * _BOW
                self.fill(np.append(x, 0.8 * self.width * _ARC), np.append(y, top), cover, turned=False)
            if style > 0:
                self.oval(0, mouth_y - 0.085, 0.24, 0.055, cover)

        lips = _mix(skin * (0.85, 0.62, 0.62), np.array((190.0, 40.0, 60.0)), 0.18 + 0.25 * grown * self.feminine())
        full = (0.062 + 0.018 * self.feminine()) * (1 - 0.55 * self.aged(35, 90)) * _BOW
        wide, middle = (0.2 + 0.07 * grown + rng.normal(0, 0.015)) * _ARC, mouth_y + rng.normal(0.03, 0.03) * _BOW
        self.fill(np.append(wide, wide[::-1]), np.append(middle - full, (middle + 1.2 * full)[::-1]), lips)
        self.line(wide, middle, lips * 0.55, 0.02)
        nose = 0.07 + 0.05 * grown + 0.03 * self.aged(30, 90) - 0.01 * self.feminine()
        self.line(nose * _ARC, nose_y - 0.035 * _ARC**2, skin * 0.6, 0.03)
        self.line(nose * np.array((0.7, 0.55)), np.array((nose_y - 0.05, eye_y + 0.08)), skin * 0.82, 0.03)

        gap, eye = 0.42 * self.width, 0.185 - 0.06 * grown + rng.normal(0, 0.006)
        lid = eye * (0.75 - 0.2 * grown - 0.22 * self.aged(25, 85))
        iris, look, lash = _IRIS[rng.integers(len(_IRIS))], rng.normal(0, 0.02), 0.02 + 0.014 * max(self.feminine(), 0)
        brow, brow_y = max(0.05 + 0.03 * grown - 0.02 * self.feminine(), 0.02), eye_y - 0.2 + 0.02 * grown
        brow_colour = _mix(skin, _mix(hair * 0.75, _GREY, 0.5 * self.grey), 0.35 + 0.6 * grown)
        for side in (-gap, gap):
            self.oval(side, eye_y, eye, lid, np.array((238, 236, 232)))
            for part, colour in ((0.55, iris), (0.25, np.array((12, 10, 10)))):
                self.oval(side + look, eye_y, part * eye, min(lid, part * eye), colour)
            self.line(side + 1.1 * eye * _ARC, eye_y - lid * _BOW + 0.01, skin * 0.25, lash)
            self.line(side + 1.35 * eye * _ARC, brow_y + 0.05 * _ARC**2, brow_colour, brow)

    def draw_hair(self) -> None:
        """Draws hair on top: it fills in small children, recedes with age, in men most; some heads have a fringe."""
        rng, male = self.rng, self.male
        bald = min(self.aged(24, 90) * (rng.uniform(0.35, 1.1) if male else 0.25) + 0.75 * (1 - self.aged(0, 3)), 1)
        fringe = 0.14 * rng.random() + (0.2 if rng.random() < 0.2 + 0.15 * self.sign else 0)
        front, power = -0.62 - 0.42 * bald + fringe * (1 - bald), 2.2 + 4 * bald
        rise = 0.06 + 0.1 * rng.random() * (1 - bald)
        temple, x, over = self.eye_y - 0.12 + 0.15 * rng.random(), np.linspace(1, -1, 21), np.linspace(0, np.pi, 25)
        outer_x, outer_y = -(self.width + 0.07) * np.cos(over), temple - (1 + rise + temple) * np.sin(over) ** 0.8
        y = front + (temple - front) * np.abs(x) ** power
        self.fill(np.append(outer_x, 0.97 * self.width * x), np.append(outer_y, y), self.hair, turned=False)
        for at in rng.uniform(-0.9, 0.9, 7):  # strands, which turn grey one by one
            ends = np.array((-(1 + 0.6 * rise) * (1 - 0.5 * at**2) ** 0.5, front + (temple - front) * abs(at) ** power))
            strand = _mix(self.hair * rng.uniform(0.75, 1.15), _GREY, 1.3 * rng.random() * self.grey)
            if ends[0] < ends[1] - 0.03:
                self.line(np.array((0.7 * at, at)) * self.width, ends - (0, 0.03), strand, 0.025)

    def lit(self) -> np.ndarray:
        """Returns the image under a light of some direction and colour, slightly blurred, with sensor noise."""
        rng, size = self.rng, self.size
        across, down = rng.normal(0, 0.12, 2)
        corners = np.array([[1 - across - down, 1 + across - down], [1 - across + down, 1 + across + down]])
        gain = 128 * rng.uniform(0.7, 1.08) * corners[..., None] * rng.normal(1, 0.035, 3)
        light = cv2.resize(np.clip(gain, 0, 255).astype(np.uint8), (size, size))
        image = cv2.multiply(self.image, light, scale=1 / 128)
        image = cv2.GaussianBlur(image, (0, 0), size * rng.uniform(0.002, 0.006))
        noise, amount = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape), rng.uniform(0.015, 0.1)
        return cv2.addWeighted(image, 1, noise, amount, -127.5 * amount)


def generate_face(rng: np.random.Generator, age: float, gender: int, size: int = 200) -> np.ndarray:
    """Generates one cartoon face: uint8 `[size, size, 3]`, RGB.

    `age` is in years, `gender` 0 male or 1 female. `rng` gives all that these leave open: identity, pose, light, skin
    tone, background.

    >>> generate_face(np.random.default_rng(0), age=40, gender=1).shape
    (200, 200, 3)
    """
    face = _Face(rng, age, gender, size)
    face.draw_head()
    face.draw_wrinkles()
    face.draw_features()
    face.draw_hair()
    return face.lit()


class _Member(NamedTuple):
    name: str
    age: int  # as generated, which the name of a conflicting copy does not tell
    gender: int
    face: int  # members with the same face hold the same bytes


def _plan(count: int, seed: int) -> list[_Member]:
    """Returns names and contents of all members, sorted by name as the release's are."""
    rng = np.random.default_rng([seed, count])
    special = _IRREGULAR if count >= _MIN_IRREGULAR else ()
    agreeing, conflicting = (max(1, round(count * share)) if special else 0 for share in (_AGREEING, _CONFLICTING))
    originals = count - len(special) - agreeing - conflicting

    # Inside a bin, round ages, babies of one year and above all 26 are heaped as in the release.
    heaps = np.ones(5 * len(_AGES))
    heaps[::5], heaps[1], heaps[26], heaps[0], heaps[117:] = 1.7, 3.3, 3.7, 0, 0
    shares = heaps * np.repeat(_AGES / heaps.reshape(-1, 5).sum(1), 5)
    ages = rng.choice(len(shares), originals, p=shares / shares.sum())
    genders = rng.random(originals) >= np.interp(ages, *_MALE)
    # Milliseconds after a start later than the irregular names' times: increasing, hence unique; then shuffled.
    times = rng.permutation(np.cumsum(rng.integers(1, max(2, 1_700_000_000 // count), count)))
    races = rng.choice(len(_RACES), count, p=_RACES)

    def member(at: int, age: int, gender: int, who: tuple[int, int, int]) -> _Member:
        time = datetime(2017, 1, 18) + timedelta(milliseconds=int(times[at]))
        stamp = f"{time:%Y%m%d%H%M%S}{time.microsecond // 1000:03d}"
        return _Member(f"{age}_{gender}_{races[at]}_{stamp}.jpg.chip.jpg", *who)

    faces = [(int(age), int(gender), at) for at, (age, gender) in enumerate(zip(ages, genders, strict=True))]
    members = [member(at, age, gender, (age, gender, at)) for age, gender, at in faces]
    for at, name in enumerate(special, originals):
        members.append(_Member(name, int(name[:2]), int(name[3]), at))
    for copy, at in enumerate(rng.permutation(originals)[: agreeing + conflicting], -agreeing):
        age, gender, _ = faces[at]
        if copy >= 0:  # in turn: the other gender too, a small error in age alone, a large one
            error = int(rng.integers(6, 21) if copy % 3 == 2 else rng.integers(1, 6))
            age = age - error if (age > error and rng.random() < 0.5) or age + error > 116 else age + error
            gender = 1 - gender if copy % 3 == 0 else gender
        members.append(member(copy - conflicting, age, gender, faces[at]))
    return sorted(members)


def write_utkface_archive(path: Path, count: int, seed: int = 0, *, progress: bool = False) -> None:
    """Writes synthetic faces as UTKFace's archive: `UTKFace/<age>_<gender>_<race>_<time>.jpg.chip.jpg`, 200 x 200 RGB.

    Labels are distributed roughly as in the release. From 20 members on, the archive has the release's irregularities:
    three names without a race, two irregular names, and byte-identical copies with the same labels (0.6 % of the
    members) and with others (0.9 %), at least one of each. The same count and seed, with the same versions of NumPy
    and OpenCV, give the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The gzip header holds no name and no time; TarInfo's owner, mode and time are constants.
    with (
        progress_bar(count, "Synthesizing faces", unit="faces", shown=progress) as bar,
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for member in _plan(count, seed):
            rng = np.random.default_rng([seed, member.face])  # a stream for each face: copies come out identical
            image = cv2.cvtColor(generate_face(rng, member.age, member.gender), cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))))[1].tobytes()
            info = tarfile.TarInfo(f"UTKFace/{member.name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            bar.update()
