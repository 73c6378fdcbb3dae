"""Voices generated from a seed, in the layout of one folder per `<gender>_<age>`.

A voice is a source and a filter (Fant 1960): a train of glottal pulses with breath noise, through the resonances of a
vocal tract that moves from vowel to vowel, with fricatives between. The words are nonsense. The recordings test the
pipeline from end to end, and show nothing about people.

How a voice shows age and gender follows the literature roughly, as stated beside each table below. Every speaker
departs from these averages and has a timbre and vowels of its own; every session has its own microphone, room and
noise. So a model can learn both labels, neither perfectly, and also who speaks: a split that lets a speaker into both
training and test scores clearly higher on age than one that does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy import fft, signal

from agegender_jax.labels import GENDERS
from agegender_jax.progress import progress_bar

SPEAKER_PATTERN = r"/(s\d+)_"  # searched in a path such as male_31/s0012_a_03.wav, its first group is the speaker.
CLASSES = tuple(f"{gender}_{age}" for age in (16, 30, 50, 75) for gender in ("female", "male"))  # by default
_SESSIONS = 3  # a speaker

# Formants of men's vowels i ɪ ɛ æ ɑ ɔ ʊ u ʌ ɝ, in Hz. F1 to F3 are averages of Peterson and Barney (1952), table II; F4
# and F5, which they did not measure, are those of a uniform tube of about 17.5 cm.
_F1 = (270, 390, 530, 660, 730, 570, 440, 300, 640, 490)
_F2 = (2290, 1990, 1840, 1720, 1090, 840, 1020, 870, 1190, 1350)
_F3 = (3010, 2550, 2480, 2410, 2440, 2410, 2240, 2240, 2390, 1690)
_VOWELS = np.array((_F1, _F2, _F3, [3500] * 10, [4500] * 10), float).T  # [vowels, formants]

# Formants go with the inverse of the vocal tract's length, which grows with age and differs between the sexes mostly
# from puberty on (Fitch and Giedd 1999). By age, relative to grown men; the size of the differences is about that
# between the men, women and children of Peterson and Barney (1952) and Hillenbrand et al. (1995).
_SCALE = (
    ((3, 8, 12, 15, 18), (1.60, 1.38, 1.26, 1.08, 1.00)),
    ((3, 8, 12, 16), (1.60, 1.42, 1.29, 1.17)),
)

# Mean speaking pitch in Hz by age: alike in children, it drops steeply in boys at puberty; later in life it falls in
# women and rises slightly in men (Titze 1994, "Principles of Voice Production"). The anchors are rounded.
_PITCH = (
    ((4, 8, 12, 13.5, 15, 18, 30, 50, 70, 90), (300, 270, 245, 210, 150, 128, 118, 116, 128, 142)),
    ((4, 8, 12, 16, 25, 45, 60, 80), (300, 275, 245, 222, 212, 203, 190, 178)),
)

_BANDS = np.linspace(np.log2(100), np.log2(7600), 20)  # where a curve of gains has its points: octaves above 1 Hz
_FRICATIVES = np.array((3000.0, 5500.0))  # centres of noises like those of "sh" and "s" in a grown man, in Hz


def _ramp(value: float, start: float, stop: float) -> float:
    return min(max((value - start) / (stop - start), 0.0), 1.0)


@dataclass(frozen=True, eq=False)
class Speaker:
    """A synthetic speaker: what stays the same in all of its recordings. Arrays are float64."""

    age: float  # years
    gender: int  # 0 male, 1 female
    pitch: float  # mean speaking pitch in Hz
    melody: float  # standard deviation of the pitch from syllable to syllable, in semitones
    tremor: float  # slow wavering of the pitch, in semitones
    jitter: float  # standard deviation of the lengths of glottal cycles, relative to the length
    shimmer: float  # standard deviation of the strengths of glottal pulses, relative to the mean
    breathiness: float  # breath noise relative to the voiced source, both as root mean square
    brightness: float  # corner frequency of the glottal pulse in Hz
    pace: float  # syllables a second
    formants: np.ndarray  # [10, 5]: five formants of ten vowels, in Hz
    fricatives: np.ndarray  # [2]: centres of the two fricatives, in Hz
    timbre: np.ndarray  # [20]: gains in dB from 100 Hz to 7.6 kHz
    habits: np.ndarray  # [10]: how often each vowel is spoken; sums to 1


@dataclass(frozen=True, eq=False)
class Session:
    """A synthetic session: what recordings made at one time in one place share."""

    response: np.ndarray  # float64 [20]: gains of the microphone in dB from 100 Hz to 7.6 kHz
    room: int  # seed of the echoes, so that a session can be recorded at any rate
    decay: float  # time in which the echoes fall by 60 dB, in seconds
    wet: float  # energy of the echoes relative to the direct sound
    noise_tilt: float  # slope of the noise in dB an octave: 0 is white, -3 pink, -6 brown
    hum: float  # frequency of the mains hum in Hz, 0 for none
    snr: float  # voice to noise in dB
    mood: float  # how much higher than usual the speaker speaks, in semitones


def sample_speaker(rng: np.random.Generator, age: float, gender: int) -> Speaker:
    """Samples who speaks: a speaker of an age (3 to 110 years) and a gender (0 male, 1 female).

    Pitch and formants follow age and gender by the tables above. With age, jitter, shimmer, breathiness and tremor grow
    (Linville 2001, "Vocal Aging") and speech slows; children too are a little rough, breathy and slow. How strong, and
    how far speakers depart from the average, is a convention of this file, not a measurement.

    >>> rng = np.random.default_rng(0)
    >>> man, woman, child = (sample_speaker(rng, *who).pitch for who in ((40, 0), (40, 1), (6, 1)))
    >>> man < woman < child
    True
    """
    sounds = max(age + rng.normal(0, 0.4 + 0.07 * age), 3)
    aged, young = _ramp(sounds, 20, 85), 1 - _ramp(sounds, 5, 18)
    rough = (1 + 3 * aged + 0.8 * young) * np.exp(rng.normal(0, 0.25))
    scale = np.interp(sounds, *_SCALE[gender]) * np.exp(rng.normal(0, 0.025))
    return Speaker(
        age=age,
        gender=gender,
        pitch=float(np.interp(sounds, *_PITCH[gender]) * 2 ** (rng.normal(0, 1.5) / 12)),
        melody=rng.uniform(0.8, 2.2) + 0.5 * gender,
        tremor=(0.08 + 0.5 * aged) * rng.uniform(0.4, 1.6),
        jitter=0.006 * rough,
        shimmer=0.05 * rough,
        breathiness=(0.03 + 0.32 * aged + 0.04 * young + 0.04 * gender) * np.exp(rng.normal(0, 0.25)),
        brightness=(280 - 80 * gender - 140 * aged) * np.exp(rng.normal(0, 0.2)),
        pace=(5.5 - 1.8 * aged - 1.0 * young) * np.exp(rng.normal(0, 0.1)),
        formants=_VOWELS * scale * np.exp(rng.normal(0, 0.03, 5) + rng.normal(0, 0.035, _VOWELS.shape)),
        fricatives=_FRICATIVES * scale**0.5 * np.exp(rng.normal(0, 0.08, 2)),
        timbre=rng.normal(0, 3, len(_BANDS)),
        habits=rng.dirichlet(np.full(len(_VOWELS), 1.5)),
    )


def sample_session(rng: np.random.Generator) -> Session:
    """Samples where, when and with what a speaker is recorded."""
    return Session(
        response=rng.normal(0, 1.5, len(_BANDS)),
        room=int(rng.integers(2**32)),
        decay=rng.uniform(0.1, 0.5),
        wet=rng.uniform(0.02, 0.3),
        noise_tilt=float(rng.choice((0.0, -3.0, -6.0))),
        hum=float(rng.choice((0.0, 0.0, 50.0, 60.0))),
        snr=rng.uniform(18, 40),
        mood=rng.normal(0, 0.7),
    )


def _resonators(frequencies: np.ndarray, bandwidths: np.ndarray, rate: int) -> np.ndarray:
    """Second-order sections [..., 6] of resonators with gain 1 at 0 Hz (Klatt 1980)."""
    radius = np.exp(-np.pi * bandwidths / rate)
    sections = np.zeros((*frequencies.shape, 6))
    sections[..., 3] = 1
    sections[..., 4] = -2 * radius * np.cos(2 * np.pi * frequencies / rate)
    sections[..., 5] = radius**2
    sections[..., 0] = sections[..., 3:].sum(-1)
    return sections


def _glottis(speaker: Speaker, rng: np.random.Generator, pitch: np.ndarray, rate: int) -> np.ndarray:
    """The derivative of the flow through the glottis with breath noise, float64 [samples]; `pitch` [samples] in Hz."""
    cycle = np.cumsum(pitch / rate).astype(int)
    jitter = np.clip(rng.normal(0, speaker.jitter, cycle[-1] + 1), -0.2, 0.2)
    phase = np.cumsum(pitch * (1 + jitter[cycle]) / rate)  # in cycles
    number = phase.astype(int)
    before = np.flatnonzero(np.diff(number))
    # A pulse lies between two samples and is shared among them.
    late = (number[before + 1] - phase[before]) / (phase[before + 1] - phase[before])
    strength = rng.normal(1, speaker.shimmer, len(before))
    pulses = np.bincount(before, strength * (1 - late), len(pitch))
    pulses += np.bincount(before + 1, strength * late, len(pitch))
    pole = np.exp(-2 * np.pi * speaker.brightness / rate)
    voiced = signal.lfilter([1, -1], [1, -2 * pole, pole**2], pulses)
    breath = rng.standard_normal(len(pitch)) * (1 + np.cos(2 * np.pi * phase))  # strongest where the glottis is open
    return voiced / max(voiced.std(), 1e-9) + speaker.breathiness * breath


def _utterance(speaker: Speaker, rng: np.random.Generator, mood: float, samples: int, rate: int) -> np.ndarray:
    """What leaves the mouth: syllables of a consonant and a vowel, as float64 [samples]."""
    seconds = samples / rate
    lengths = np.clip(rng.gamma(8, 1 / (8 * speaker.pace), int(10 * seconds)), 0.12, 0.6)
    pauses = rng.uniform(0.1, 0.3, len(lengths)) * (rng.random(len(lengths)) < 0.1)
    onsets = rng.uniform(0, 0.15) + np.cumsum(lengths + pauses) - (lengths + pauses)
    spoken = onsets < seconds - 0.1
    onsets, lengths = onsets[spoken], lengths[spoken]

    time = np.arange(samples) / rate
    tune = np.interp(time, onsets + lengths / 2, rng.normal(0, speaker.melody, len(onsets)))
    tune += mood + rng.uniform(1, 3) * (0.5 - time / seconds)  # pitch sinks towards the end of a phrase
    tune += speaker.tremor * np.sin(2 * np.pi * (rng.uniform(4, 7) * time + rng.random()))
    pitch = np.clip(speaker.pitch * 2 ** (tune / 12), 50, 700)
    source = _glottis(speaker, rng, pitch, rate)

    # Wider formants higher up; what lies near half the sampling rate cannot be heard and is left out.
    kept = speaker.formants.max(0) < 0.45 * rate
    formants = speaker.formants[:, kept]
    sections = _resonators(formants, (45 + 0.045 * formants) * (1 + speaker.breathiness), rate)
    mouth, edge, ringing = np.zeros(samples), round(0.03 * rate), round(0.04 * rate)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    hiss = np.zeros((2, samples))
    vowels = rng.choice(len(_VOWELS), len(onsets), p=speaker.habits)
    for onset, length, vowel in zip(onsets, lengths, vowels, strict=True):
        consonant, loudness = rng.uniform(0.1, 0.4) * length, rng.uniform(0.6, 1.0)
        start = round((onset + consonant) * rate)
        stop = min(round((onset + length) * rate) + edge, samples)  # vowels overlap, so the tract glides
        if stop - start > 2 * edge:
            envelope = np.ones(stop - start)
            envelope[:edge], envelope[-edge:] = rise, rise[::-1]
            end = min(stop + ringing, samples)
            voice = np.zeros(end - start)
            voice[: stop - start] = loudness * envelope * source[start:stop]
            mouth[start:end] += signal.sosfilt(sections[vowel], voice)
        if rng.random() < 0.6:  # else a consonant without noise
            first = round(onset * rate)
            hiss[rng.integers(2), first:start] = np.hanning(max(start - first, 0))[: samples - first]
    centres, white = np.minimum(speaker.fricatives, 0.4 * rate), rng.standard_normal(samples)
    for section, envelope in zip(_resonators(centres, 0.3 * centres, rate), hiss, strict=True):
        noise = signal.sosfilt(section[None], white)
        mouth += rng.uniform(0.15, 0.4) * mouth.std() * envelope * noise / noise.std()
    return mouth


def generate_voice(
    speaker: Speaker,
    rng: np.random.Generator,
    *,
    session: Session | None = None,
    rate: int = 16000,
    seconds: float = 2.0,
) -> np.ndarray:
    """Generates one recording of a speaker: float32 `[round(rate * seconds)]`, within -1 and 1.

    The words, the manner and the noise come from `rng`; so does the session where there is none. `rate` is 8000 to
    48000 Hz, `seconds` 0.5 to 60.

    >>> rng = np.random.default_rng(0)
    >>> voice = generate_voice(sample_speaker(rng, age=31, gender=1), rng)
    >>> voice.shape, voice.dtype
    ((32000,), dtype('float32'))
    """
    session = session or sample_session(rng)
    samples = round(rate * seconds)
    size = fft.next_fast_len(samples + rate // 4, real=True)  # room for the echoes, so that none wraps around
    mouth = _utterance(speaker, rng, session.mood, samples, rate)

    # Speaker's and microphone's timbre, the room, and the noise are put on in the frequency domain.
    octaves = np.log2(np.maximum(np.arange(size // 2 + 1) * rate / size, 20.0))
    gains = 10 ** (np.interp(octaves, _BANDS, speaker.timbre + session.response) / 20)
    delay = np.arange(rate // 4) / rate
    echoes = np.random.default_rng(session.room).standard_normal(rate // 4) * 10 ** (-3 * delay / session.decay)
    echoes *= np.sqrt(session.wet / np.sum(echoes**2))
    echoes[0] += 1
    voice = fft.irfft(fft.rfft(mouth, size) * gains * fft.rfft(echoes, size), size)[:samples]

    slope = 2 ** (session.noise_tilt / 6.02 * octaves)
    noise = fft.irfft(fft.rfft(rng.standard_normal(size)) * slope, size)[:samples]
    noise /= noise.std()
    if session.hum:
        wave = 2 * np.pi * session.hum * np.arange(samples) / rate + rng.uniform(0, 2 * np.pi)
        noise += np.sin(wave) + 0.5 * np.sin(3 * wave)
    voice += noise * (voice.std() / noise.std() * 10 ** (-session.snr / 20))
    return (voice * (rng.uniform(0.25, 0.9) / np.abs(voice).max())).astype(np.float32)


def write_voices(
    folder: Path,
    *,
    speakers_per_class: int = 4,
    recordings_per_speaker: int = 10,
    classes: Sequence[str] = CLASSES,
    seed: int = 0,
    rate: int = 16000,
    seconds: float = 2.0,
    progress: bool = False,
) -> None:
    """Writes synthetic voices as `<folder>/<gender>_<age>/<speaker>_<session>_<number>.wav`, 16-bit PCM, one channel.

    Speakers are numbered through from `s0001`, class after class. The recordings of one are spread evenly over three
    sessions, `a` to `c` (as many as there are recordings, where fewer). The same arguments, with the same versions of
    NumPy and SciPy, give the same bytes.
    """
    speakers = speakers_per_class * len(classes)
    sessions, digits = min(_SESSIONS, recordings_per_speaker), max(2, len(str(recordings_per_speaker)))
    with progress_bar(
        speakers * recordings_per_speaker, "Synthesizing voices", unit="recordings", shown=progress
    ) as bar:
        for number in range(1, speakers + 1):
            name = classes[(number - 1) // speakers_per_class]
            gender, age = name.split("_")
            (folder / name).mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([seed, number])  # a stream for each: speakers do not depend on each other
            speaker = sample_speaker(rng, int(age), GENDERS.index(gender))
            sampled = [sample_session(rng) for _ in range(sessions)]
            for recording in range(recordings_per_speaker):
                at = recording * sessions // recordings_per_speaker
                voice = generate_voice(speaker, rng, session=sampled[at], rate=rate, seconds=seconds)
                file = folder / name / f"s{number:04d}_{'abc'[at]}_{recording + 1:0{digits}d}.wav"
                soundfile.write(file, np.round(voice * 32767).astype(np.int16), rate, "PCM_16", format="WAV")
                bar.update()
