"""The processes that decode: the same values as here, and what happens when one fails, is killed or told to stop."""

import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from agegender_jax.data import decode_pool as module
from agegender_jax.data.decode_audio import decode_audio
from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.decode_pool import DecodePool
from agegender_jax.data.resources import cores
from agegender_jax.errors import UserError

SIZE = 24
DECODE = partial(decode_image, size=SIZE)


def picture(number: int) -> bytes:
    stored = io.BytesIO()
    values = np.random.default_rng(number).integers(0, 256, (40, 50 + number % 7, 3)).astype(np.uint8)
    Image.fromarray(values).save(stored, "JPEG")
    return stored.getvalue()


PICTURES = [picture(number) for number in range(30)]


def read(places: np.ndarray) -> tuple[list[bytes], list[str]]:
    return [PICTURES[place % 30] for place in places], [f"{place}.jpg" for place in places]


@pytest.fixture(scope="module")
def workers() -> DecodePool:
    return DecodePool(DECODE, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def own_workers() -> Iterator[tuple[DecodePool, list[subprocess.Popen]]]:
    """Those of one test alone, and their processes."""
    started = []
    popen = subprocess.Popen

    def start(*args: object, **options: object) -> subprocess.Popen:
        started.append(popen(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.subprocess, "Popen", start)
        found = DecodePool(DECODE, (SIZE, SIZE, 3), np.uint8)
        every = max(20, 2 * cores())
        found.decode(read, np.arange(every), np.empty((every, SIZE, SIZE, 3), np.uint8))
    assert len(started) == cores()
    yield found, started
    for process in started:
        process.kill()


@pytest.mark.parametrize("count", [1, 7, 700])  # more than all of them hold at once
def test_values_are_those_of_this_process(workers: DecodePool, count: int) -> None:
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
    contents, out = [stored.getvalue()] * 20, np.empty((20, 6000), np.int16)
    with DecodePool(partial(decode_audio, rate=16000, samples=6000), (6000,), np.int16) as pool:
        pool.decode(lambda places: ([contents[place] for place in places], ["a"] * len(places)), np.arange(20), out)
    np.testing.assert_array_equal(out, np.stack([decode_audio(contents[0], 16000, 6000)] * 20))
    assert out.std() > 1000


def test_several_threads_at_a_time(workers: DecodePool) -> None:
    outs = [np.empty((90, SIZE, SIZE, 3), np.uint8) for _ in range(4)]
    threads = [threading.Thread(target=workers.decode, args=(read, np.arange(90), out)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = np.stack([decode_image(content, SIZE) for content in PICTURES])
    for out in outs:
        np.testing.assert_array_equal(out, np.concatenate([expected] * 3))


def test_what_cannot_be_decoded_is_named_and_work_goes_on(workers: DecodePool) -> None:
    def damaged(places: np.ndarray) -> tuple[list[bytes], list[str]]:
        contents, names = read(places)
        return [b"\n" if name == "33.jpg" else content for content, name in zip(contents, names, strict=True)], names

    out = np.empty((60, SIZE, SIZE, 3), np.uint8)
    with pytest.raises(UserError, match=r"^33\.jpg: is no image that can be decoded"):
        workers.decode(damaged, np.arange(60), out)
    workers.decode(read, np.arange(60), out)
    np.testing.assert_array_equal(out[33], decode_image(PICTURES[3], SIZE))


def test_one_that_is_killed_is_a_sentence(own_workers: tuple[DecodePool, list[subprocess.Popen]]) -> None:
    workers, processes = own_workers
    processes[0].kill()
    out = np.empty((200, SIZE, SIZE, 3), np.uint8)
    with pytest.raises(UserError, match=r"A process that decodes examples ended \(-9\), perhaps for want of memory"):
        workers.decode(read, np.arange(200), out)
    workers.decode(read, np.arange(200), out)  # it was replaced
    np.testing.assert_array_equal(out[33], decode_image(PICTURES[3], SIZE))


def test_what_is_wrong_can_be_noted_by_place(workers: DecodePool, tmp_path: Path) -> None:
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
    own_workers: tuple[DecodePool, list[subprocess.Popen]], monkeypatch: pytest.MonkeyPatch
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


def test_a_process_that_ends_once_is_no_file_s_fault(
    own_workers: tuple[DecodePool, list[subprocess.Popen]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed four times on the way to one picture, which the fourth time is alone."""
    workers, _ = own_workers
    decode, left = module._Worker.decode, iter(range(4))

    def deadly(worker: module._Worker, contents: list[bytes | None], names: list[str]) -> object:
        if "7.jpg" in names and next(left, None) is not None:
            worker._process.kill()
        return decode(worker, contents, names)

    monkeypatch.setattr(module._Worker, "decode", deadly)
    out, wrong = np.empty((20, SIZE, SIZE, 3), np.uint8), {}
    monkeypatch.setattr(module, "cores", lambda: 1)  # chunks of 10, 5, 3 or 2, 2 or 1, 1
    workers.decode(read, np.arange(20), out, wrong)
    assert wrong == {}
    np.testing.assert_array_equal(out, np.stack([decode_image(PICTURES[place], SIZE) for place in range(20)]))


def test_one_that_is_killed_while_it_answers(
    own_workers: tuple[DecodePool, list[subprocess.Popen]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, _ = own_workers

    class Half:
        """The beginning of a line, and then nothing."""

        def __init__(self, stream: object) -> None:
            self.stream = stream

        def readline(self) -> bytes:
            return self.stream.readline()[:1]  # type: ignore[attr-defined]

        def close(self) -> None:
            self.stream.close()  # type: ignore[attr-defined]

    worker = workers._idle.get()
    assert worker is not None
    worker._process.stdout = Half(worker._process.stdout)  # type: ignore[assignment]
    for _ in range(cores() - 1):
        workers._idle.put(workers._idle.get())
    workers._idle.put(worker)
    wait = worker._process.wait
    monkeypatch.setattr(worker._process, "wait", lambda *_: (worker._process.kill(), wait())[1])
    out, wrong = np.empty((200, SIZE, SIZE, 3), np.uint8), {}
    workers.decode(read, np.arange(200), out, wrong)
    assert wrong == {}
    np.testing.assert_array_equal(out[31], decode_image(PICTURES[1], SIZE))


@pytest.mark.parametrize(
    ("executable", "sentence"),
    [
        ("false", r"A process that decodes examples ended before its first one \(1\)"),
        ("absent", r"A process that decodes examples cannot be started \(No such file or directory\)"),
    ],
)
def test_one_that_cannot_start_is_a_sentence_and_no_file_s_fault(
    executable: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = DecodePool(DECODE, (SIZE, SIZE, 3), np.uint8)
    out, wrong = np.empty((40, SIZE, SIZE, 3), np.uint8), {}
    with monkeypatch.context() as patch:
        patch.setattr(module.sys, "executable", shutil.which(executable) or executable)
        with pytest.raises(UserError, match=sentence):
            found.decode(read, np.arange(40), out, wrong)
    assert wrong == {}
    found.decode(read, np.arange(40), out, wrong)  # and the next time all can
    np.testing.assert_array_equal(out[31], decode_image(PICTURES[1], SIZE))
    assert len([found._idle.get() for _ in range(cores())]) == cores()


def test_a_few_need_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    found = DecodePool(DECODE, (SIZE, SIZE, 3), np.uint8)
    (tmp_path / "file.jpg").write_bytes(PICTURES[0])
    names = [str(tmp_path / "file.jpg"), str(tmp_path / "absent.jpg")]
    out, wrong = np.full((3, SIZE, SIZE, 3), 7, np.uint8), {}
    found.decode(lambda places: ([None], [names[places[0] - 1]]), np.array([1, 2]), out, wrong)
    assert wrong == {2: f"{names[1]}: cannot be read (No such file or directory); check it."}
    np.testing.assert_array_equal(out[1], decode_image(PICTURES[0], SIZE))
    assert (out[[0, 2]] == 7).all()
    with pytest.raises(UserError, match=r"absent\.jpg: cannot be read"):
        found.decode(lambda places: ([None], [names[places[0] - 1]]), np.array([1, 2]), out)


def test_files_are_those_of_the_folder_where_they_were_named(
    own_workers: tuple[DecodePool, list[subprocess.Popen]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes started elsewhere, and messages have the names that were given."""
    workers, _ = own_workers
    monkeypatch.chdir(tmp_path)
    Path("here.jpg").write_bytes(PICTURES[4])
    names = ["here.jpg"] * 19 + ["absent.jpg"]
    out, wrong = np.empty((20, SIZE, SIZE, 3), np.uint8), {}
    workers.decode(lambda places: ([None] * len(places), [names[place] for place in places]), np.arange(20), out, wrong)
    assert wrong == {19: "absent.jpg: cannot be read (No such file or directory); check it."}
    np.testing.assert_array_equal(out[:19], np.stack([decode_image(PICTURES[4], SIZE)] * 19))


def test_what_lies_in_the_working_directory_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "mmap", "numpy", "PIL"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w').close(); raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    found = DecodePool(DECODE, (SIZE, SIZE, 3), np.uint8)
    out = np.empty((20, SIZE, SIZE, 3), np.uint8)
    found.decode(read, np.arange(20), out)
    np.testing.assert_array_equal(out[3], decode_image(PICTURES[3], SIZE))
    assert not (tmp_path / "imported").exists()


def test_they_outlive_the_signals_that_stop_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the ones that come while they start."""
    popen, started = subprocess.Popen, []

    def start(*args: object, **options: object) -> subprocess.Popen:
        started.append(popen(*args, **options))  # type: ignore[call-overload]
        stop(started[-1])
        return started[-1]

    def stop(process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)

    monkeypatch.setattr(module.subprocess, "Popen", start)
    workers = DecodePool(DECODE, (SIZE, SIZE, 3), np.uint8)
    out = np.empty((200, SIZE, SIZE, 3), np.uint8)
    workers.decode(read, np.arange(20), out)
    for process in started:  # which are ready by now
        stop(process)
    out[:] = 0
    workers.decode(read, np.arange(200), out)
    np.testing.assert_array_equal(out[31], decode_image(PICTURES[1], SIZE))
    assert len(started) <= cores()
    assert all(process.poll() is None for process in started)


def test_one_that_is_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    found = DecodePool(DECODE, (SIZE, SIZE, 3), np.uint8)
    found.decode(read, np.arange(20), np.empty((20, SIZE, SIZE, 3), np.uint8))
    workers = [worker for worker in (found._idle.get() for _ in range(cores())) if worker is not None]
    processes = [worker._process for worker in workers]
    processes[0].send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    del found, workers
    gc.collect()
    assert time.monotonic() - begin < 10
    assert [process.poll() for process in processes] == [-signal.SIGKILL] + [0] * (len(processes) - 1)


@pytest.mark.parametrize("closed", [True, False])
def test_they_end_where_the_pool_is_closed_or_gone(closed: bool) -> None:
    pool = DecodePool(DECODE, (SIZE, SIZE, 3), np.uint8)
    every = max(20, 2 * cores())
    out = np.empty((every, SIZE, SIZE, 3), np.uint8)
    pool.decode(read, np.arange(every), out)
    workers = [pool._idle.get() for _ in range(cores())]
    processes = [worker._process for worker in workers if worker is not None]
    for worker in workers:
        pool._idle.put(worker)
    del workers, worker
    if closed:
        pool.close()
        assert [process.poll() for process in processes] == [0] * cores()
        out[:] = 0
        pool.decode(read, np.arange(every), out)  # starts others
        np.testing.assert_array_equal(out[3], decode_image(PICTURES[3], SIZE))
        pool.close()
    del pool
    gc.collect()
    for process in processes:
        process.wait(timeout=60)
    assert {process.returncode for process in processes} == {0}


def test_what_a_library_prints_does_not_come_between_the_replies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy_decoder.py").write_text(
        "import os\n"
        "import numpy as np\n"
        "def decode(content, name):\n"
        "    os.write(1, b'noise\\n')\n"  # as C's printf would
        "    print('more')\n"
        "    return np.frombuffer(content, np.uint8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import noisy_decoder

    out = np.empty((40, 1), np.uint8)
    with DecodePool(partial(noisy_decoder.decode), (1,), np.uint8) as pool:
        pool.decode(lambda places: ([bytes([n]) for n in places], ["a"] * len(places)), np.arange(40), out)
    assert out.ravel().tolist() == list(range(40))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "noise" in printed.err


def test_they_end_where_the_process_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # with no guard around what it does, which `multiprocessing` would need
    script.write_text(
        "import io, os, signal\n"
        "from functools import partial\n"
        "from agegender_jax.data.decode_image import decode_image\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "from agegender_jax.data.decode_pool import DecodePool\n"
        "stored = io.BytesIO()\n"
        "Image.new('RGB', (9, 9)).save(stored, 'PNG')\n"
        "workers = DecodePool(partial(decode_image, size=8), (8, 8, 3), np.uint8)\n"
        "read = lambda places: ([stored.getvalue()] * len(places), ['a'] * len(places))\n"
        "workers.decode(read, np.arange(200), np.empty((200, 8, 8, 3), np.uint8))\n"
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
