"""The synthetic voices: age, gender and speaker can be heard, and the files lie as a real set's do."""

import re
import wave
from pathlib import Path

import numpy as np
import pytest

from agegender_jax.synthetic.voices import SPEAKER_PATTERN, generate_voice, sample_session, sample_speaker, write_voices

RATE = 16000

# Averages of F3 of ten vowels of 28 women and 15 children, in Hz: Peterson and Barney (1952), table II.
WOMEN_F3 = (3310, 3070, 2990, 2850, 2810, 2710, 2680, 2670, 2780, 1960)
CHILDREN_F3 = (3730, 3600, 3570, 3320, 3170, 3180, 3310, 3260, 3360, 2160)


def periodicity(voice: np.ndarray) -> tuple[float, float]:
    """Median pitch in Hz by autocorrelation of the loud frames, and the mean height of its peak (1: periodic)."""
    frames = np.lib.stride_tricks.sliding_window_view(voice.astype(float), 640)[::160]
    power = (frames**2).sum(1)
    frames = frames[power > np.quantile(power, 0.6)] * np.hanning(640)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, :320]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(640), 2048)) ** 2)[:320]
    correlation *= window[0] / (window * correlation[:, :1])  # the window makes long lags fall
    lags = np.arange(RATE // 450, RATE // 70)
    # Of peaks that are nearly as high, the shortest lag is the period and the others its multiples.
    heights = correlation[:, lags]
    best = (heights > 0.9 * heights.max(1, keepdims=True)).argmax(1)
    rising = [at + heights[row, at : at + 12].argmax() for row, at in enumerate(best)]
    return float(np.median(RATE / lags[np.minimum(rising, len(lags) - 1)])), float(heights.max(1).mean())


def log_spectrum(voice: np.ndarray) -> np.ndarray:
    """Mean power in 40 bands up to 8 kHz, in dB, whatever the level."""
    power = np.abs(np.fft.rfft(voice)) ** 2
    bands = 10 * np.log10([band.mean() for band in np.array_split(power[1:], 40)])
    return bands - bands.mean()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "new" / "voices"
    classes = ("female_31", "male_31", "male_8")
    write_voices(folder, speakers_per_class=2, recordings_per_speaker=4, classes=classes, seconds=0.5)
    return folder


def test_pitch_is_lowest_in_men_and_highest_in_children() -> None:
    measured = {}
    for name, age, gender in (("men", 30, 0), ("women", 30, 1), ("children", 8, 1)):
        speakers = [sample_speaker(np.random.default_rng(seed), age, gender) for seed in range(12)]
        pitches = [periodicity(generate_voice(speaker, np.random.default_rng(0)))[0] for speaker in speakers]
        errors = np.abs(12 * np.log2(np.array(pitches) / [speaker.pitch for speaker in speakers]))
        assert np.median(errors) < 2, (name, errors)  # semitones; a sentence wanders about the mean
        measured[name] = np.mean(pitches)
    assert 100 < measured["men"] < 150 < 180 < measured["women"] < 240 < measured["children"] < 330, measured


def test_formants_are_as_far_apart_as_in_the_literature() -> None:
    men, women, children = (
        np.mean([sample_speaker(np.random.default_rng(seed), age, gender).formants for seed in range(200)], 0)[:, 2]
        for age, gender in ((35, 0), (35, 1), (8, 1))
    )
    assert women.mean() / np.mean(WOMEN_F3) == pytest.approx(1, abs=0.05)
    assert children.mean() / np.mean(CHILDREN_F3) == pytest.approx(1, abs=0.06)
    assert men.mean() < women.mean() < children.mean()


def test_old_voices_are_less_periodic_than_young_ones() -> None:
    def mean_periodicity(age: float) -> float:
        voices = (
            generate_voice(sample_speaker(np.random.default_rng(s), age, 1), np.random.default_rng(s))
            for s in range(16)
        )
        return float(np.mean([periodicity(voice)[1] for voice in voices]))

    young, old = mean_periodicity(25), mean_periodicity(80)
    assert young > old + 0.03, (young, old)


def test_a_speaker_sounds_like_itself_in_other_sessions() -> None:
    spectra = []
    for seed in range(16):
        speaker = sample_speaker(np.random.default_rng(seed), 40, seed % 2)
        rng = np.random.default_rng([seed, 1])
        spectra.append([log_spectrum(generate_voice(speaker, rng)) for _ in range(2)])  # each in a session of its own
    distances = np.abs(np.array(spectra)[:, None, :1] - np.array(spectra)[None, :, 1:]).mean((2, 3))
    same_gender = np.add.outer(np.arange(16), np.arange(16)) % 2 == 0
    own = np.eye(16, dtype=bool)
    assert distances[own].mean() < 0.85 * distances[same_gender & ~own].mean()
    assert distances[same_gender & ~own].mean() < distances[~same_gender].mean()


def test_a_session_is_heard_in_all_its_recordings() -> None:
    speaker, rng = sample_speaker(np.random.default_rng(3), 40, 1), np.random.default_rng(4)
    spectra = np.array(
        [
            [log_spectrum(generate_voice(speaker, rng, session=session)) for _ in range(3)]
            for session in (sample_session(rng) for _ in range(8))
        ]
    )
    within = np.abs(spectra[:, 0] - spectra[:, 1]).mean()
    between = np.abs(spectra[:, 0] - np.roll(spectra[:, 2], 1, axis=0)).mean()
    assert within < between


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 0.5), (16000, 1.234), (48000, 0.5)])
def test_recordings_are_finite_within_range_and_audible(rate: int, seconds: float) -> None:
    for seed, age in enumerate((3, 9, 13, 40, 110) * 6):
        rng = np.random.default_rng(seed)
        voice = generate_voice(sample_speaker(rng, age, seed % 2), rng, rate=rate, seconds=seconds)
        assert voice.shape == (round(rate * seconds),)
        assert voice.dtype == np.float32
        assert np.isfinite(voice).all()
        assert 0.2 < np.abs(voice).max() < 1
        assert voice.std() > 0.01


def test_layout_names_and_format_are_those_of_a_folder_per_class(written: Path) -> None:
    names = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    # Four recordings in three sessions: floor(3 k / 4) is 0, 0, 1, 2.
    files = ("a_01", "a_02", "b_03", "c_04")
    speakers = {"female_31": ("s0001", "s0002"), "male_31": ("s0003", "s0004"), "male_8": ("s0005", "s0006")}
    assert names == [f"{c}/{speaker}_{file}.wav" for c, ids in speakers.items() for speaker in ids for file in files]
    matches = [re.search(SPEAKER_PATTERN, name) for name in names]
    assert [match and match[1] for match in matches] == [f"s{number:04d}" for number in range(1, 7) for _ in files]
    for name in names:
        with wave.open(str(written / name)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
            samples = np.frombuffer(file.readframes(RATE), np.int16)
        assert len(samples) == RATE // 2
        assert np.abs(samples.astype(int)).max() > 6000
    assert len({(written / name).read_bytes() for name in names}) == 24
