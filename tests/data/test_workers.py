"""The processes that decode: the same values as here, and what happens when one fails, is killed or told to stop."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from agegender_jax.data import workers as module
from agegender_jax.data.decode import decode_image
from agegender_jax.data.examples import cores
from agegender_jax.data.sound import decode_sound
from agegender_jax.data.workers import Workers
from agegender_jax.errors import UserError

SIZE = 24


def picture(number: int) -> bytes:
    stored = io.BytesIO()
    values = np.random.default_rng(number).integers(0, 256, (40, 50 + number % 7, 3)).astype(np.uint8)
    Image.fromarray(values).save(stored, "JPEG")
    return stored.getvalue()


PICTURES = [picture(number) for number in range(30)]


def read(places: np.ndarray) -> tuple[list[bytes], list[str]]:
    return [PICTURES[place % 30] for place in places], [f"{place}.jpg" for place in places]


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers({"kind": "image", "size": SIZE}, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def own_workers() -> Iterator[tuple[Workers, list[subprocess.Popen]]]:
    """Those of one test alone, and their processes."""
    started = []
    popen = subprocess.Popen

    def start(*args: object, **options: object) -> subprocess.Popen:
        started.append(popen(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.subprocess, "Popen", start)
        found = Workers({"kind": "image", "size": SIZE}, (SIZE, SIZE, 3), np.uint8)
        found.decode(read, np.arange(20), np.empty((20, SIZE, SIZE, 3), np.uint8))
    assert len(started) == cores()
    yield found, started
    for process in started:
        process.kill()


@pytest.mark.parametrize("count", [1, 7, 700])  # more than all of them hold at once
def test_values_are_those_of_this_process(workers: Workers, count: int) -> None:
    places = np.random.default_rng(count).permutation(count + 5)[:count]
    out = np.full((count + 5, SIZE, SIZE, 3), 7, np.uint8)
    workers.decode(read, places, out)
    expected = np.full_like(out, 7)
    for place in places:
        expected[place] = decode_image(PICTURES[place % 30], SIZE)
    np.testing.assert_array_equal(out, expected)


def test_recordings() -> None:
    stored = io.BytesIO()
    soundfile.write(stored, np.sin(np.arange(4000) / 9), 8000, format="WAV")
    contents, out = [stored.getvalue()] * 3, np.empty((3, 6000), np.int16)
    decoding = {"kind": "audio", "rate": 16000, "samples": 6000}
    found = Workers(decoding, (6000,), np.int16)
    found.decode(lambda places: ([contents[place] for place in places], ["a"] * len(places)), np.arange(3), out)
    np.testing.assert_array_equal(out, np.stack([decode_sound(contents[0], 16000, 6000)] * 3))
    assert out.std() > 1000


def test_several_threads_at_a_time(workers: Workers) -> None:
    outs = [np.empty((90, SIZE, SIZE, 3), np.uint8) for _ in range(4)]
    threads = [threading.Thread(target=workers.decode, args=(read, np.arange(90), out)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = np.stack([decode_image(content, SIZE) for content in PICTURES])
    for out in outs:
        np.testing.assert_array_equal(out, np.concatenate([expected] * 3))


def test_what_cannot_be_decoded_is_named_and_work_goes_on(workers: Workers) -> None:
    def damaged(places: np.ndarray) -> tuple[list[bytes], list[str]]:
        contents, names = read(places)
        return [b"\n" if name == "33.jpg" else content for content, name in zip(contents, names, strict=True)], names

    out = np.empty((60, SIZE, SIZE, 3), np.uint8)
    with pytest.raises(UserError, match=r"^33\.jpg: is no image that can be decoded"):
        workers.decode(damaged, np.arange(60), out)
    workers.decode(read, np.arange(60), out)
    np.testing.assert_array_equal(out[33], decode_image(PICTURES[3], SIZE))


def test_one_that_is_killed_is_a_sentence(own_workers: tuple[Workers, list[subprocess.Popen]]) -> None:
    workers, processes = own_workers
    processes[0].kill()
    with pytest.raises(UserError, match=r"A process that decodes examples ended \(-9\), perhaps for want of memory"):
        workers.decode(read, np.arange(200), np.empty((200, SIZE, SIZE, 3), np.uint8))


def test_what_is_wrong_can_be_noted_by_place(workers: Workers, tmp_path: Path) -> None:
    """Some examples are files that the processes read themselves."""
    (tmp_path / "good.jpg").write_bytes(PICTURES[5])
    (tmp_path / "empty.jpg").touch()

    def mixed(places: np.ndarray) -> tuple[list[bytes | None], list[str]]:
        files = {0: "good.jpg", 31: "empty.jpg", 32: "absent.jpg"}
        contents = [None if place in files else b"x" if place == 40 else PICTURES[place % 30] for place in places]
        return contents, [str(tmp_path / files.get(int(place), f"{place}.jpg")) for place in places]

    out, wrong = np.full((60, SIZE, SIZE, 3), 7, np.uint8), {}
    workers.decode(mixed, np.arange(60), out, wrong)
    assert {place: reason.partition(" (")[0] for place, reason in wrong.items()} == {
        31: f"{tmp_path}/empty.jpg: is empty; download it again or remove it.",
        32: f"{tmp_path}/absent.jpg: cannot be read",
        40: f"{tmp_path}/40.jpg: is no image that can be decoded",
    }
    assert (out[[31, 32, 40]] == 7).all()
    np.testing.assert_array_equal(out[0], decode_image(PICTURES[5], SIZE))
    for place in set(range(1, 60)) - {31, 32, 40}:
        np.testing.assert_array_equal(out[place], decode_image(PICTURES[place % 30], SIZE))


def test_where_errors_are_noted_one_that_is_killed_is_replaced(
    own_workers: tuple[Workers, list[subprocess.Popen]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, processes = own_workers
    processes[0].kill()
    out, wrong = np.empty((200, SIZE, SIZE, 3), np.uint8), {}
    workers.decode(read, np.arange(200), out, wrong)
    assert wrong == {}
    np.testing.assert_array_equal(out, np.stack([decode_image(PICTURES[place % 30], SIZE) for place in range(200)]))
    decode = module._Worker.decode

    def deadly(worker: module._Worker, contents: list[bytes | None], names: list[str]) -> object:
        if "77.jpg" in names:
            worker._process.kill()
        return decode(worker, contents, names)

    monkeypatch.setattr(module._Worker, "decode", deadly)
    again = np.full_like(out, 9)
    workers.decode(read, np.arange(200), again, wrong)
    assert wrong == {77: "77.jpg: ends the process that decodes it; shrink or remove it."}
    assert (again[77] == 9).all()
    np.testing.assert_array_equal(np.delete(again, 77, 0), np.delete(out, 77, 0))


def test_they_outlive_the_signals_that_stop_a_job(own_workers: tuple[Workers, list[subprocess.Popen]]) -> None:
    workers, processes = own_workers
    for process in processes:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    out = np.empty((200, SIZE, SIZE, 3), np.uint8)
    workers.decode(read, np.arange(200), out)
    np.testing.assert_array_equal(out[31], decode_image(PICTURES[1], SIZE))


def test_they_end_with_what_they_belong_to() -> None:
    found = Workers({"kind": "image", "size": SIZE}, (SIZE, SIZE, 3), np.uint8)
    found.decode(read, np.arange(20), np.empty((20, SIZE, SIZE, 3), np.uint8))
    processes = [found._idle.get()._process for _ in range(cores())]
    del found
    for process in processes:
        process.wait(timeout=60)
    assert {process.returncode for process in processes} == {0}


def test_they_end_where_the_process_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # with no guard around what it does, which `multiprocessing` would need
    script.write_text(
        "import io, os, signal\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "from agegender_jax.data.workers import Workers\n"
        "stored = io.BytesIO()\n"
        "Image.new('RGB', (9, 9)).save(stored, 'PNG')\n"
        "workers = Workers({'kind': 'image', 'size': 8}, (8, 8, 3), np.uint8)\n"
        "read = lambda places: ([stored.getvalue()] * len(places), ['a'] * len(places))\n"
        "workers.decode(read, np.arange(9), np.empty((9, 8, 8, 3), np.uint8))\n"
        "print(*[workers._idle.get()._process.pid for _ in range(workers._idle.qsize())], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    found = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    numbers = [int(number) for number in found.stdout.split()]
    assert len(numbers) == cores()
    until = time.monotonic() + 60
    while any(map(runs, numbers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(runs, numbers))


def runs(number: int) -> bool:
    """Whether a process does: one that has ended may stay, until its parent asks what became of it."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
