"""The processes that decode: the same values as here, and what happens when one fails, is killed or is to stop."""

import gc
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

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
Own = tuple[DecodePool, list[subprocess.Popen]]


def jpeg(number: int) -> bytes:
    stored = io.BytesIO()
    values = np.random.default_rng(number).integers(0, 256, (40, 50 + number % 7, 3)).astype(np.uint8)
    Image.fromarray(values).save(stored, "JPEG")
    return stored.getvalue()


IMAGES = [jpeg(number) for number in range(30)]
DECODED = np.stack([decode_image(content, SIZE) for content in IMAGES])


def read(places: np.ndarray) -> tuple[list[bytes], list[str]]:
    return [IMAGES[place % 30] for place in places], [f"{place}.jpg" for place in places]


def make_pool() -> DecodePool:
    return DecodePool(partial(decode_image, size=SIZE), (SIZE, SIZE, 3), np.uint8)


def empty(count: int) -> np.ndarray:
    return np.full((count, SIZE, SIZE, 3), 7, np.uint8)


def check(pool: DecodePool, count: int = 200, wrong: dict[int, str] | None = None) -> None:
    """Decodes examples, all of which must be right."""
    out = empty(count)
    pool.decode(read, np.arange(count), out, wrong)
    np.testing.assert_array_equal(out, DECODED[np.arange(count) % 30])
    assert not wrong


@pytest.fixture(scope="module")
def workers() -> DecodePool:
    return make_pool()


@pytest.fixture
def own_workers() -> Iterator[Own]:
    """Those of one test alone, and their processes."""
    started = []
    popen = subprocess.Popen

    def start(*args: object, **options: object) -> subprocess.Popen:
        started.append(popen(*args, **options))  # type: ignore[call-overload]
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.subprocess, "Popen", start)
        pool = make_pool()
        check(pool, max(20, 2 * cores()))
    assert len(started) == cores()
    yield pool, started
    for process in started:
        process.kill()


@pytest.mark.parametrize("count", [1, 7, 700])  # more than all of them hold at once
def test_values_are_those_of_this_process(workers: DecodePool, count: int) -> None:
    places = np.random.default_rng(count).permutation(count + 5)[:count]
    out, expected = empty(count + 5), empty(count + 5)
    workers.decode(read, places, out)
    expected[places] = DECODED[places % 30]
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
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: check(workers, 90), range(4)))


def test_what_cannot_be_decoded_is_named_and_work_goes_on(workers: DecodePool) -> None:
    def damaged(places: np.ndarray) -> tuple[list[bytes], list[str]]:
        contents, names = read(places)
        return [b"\n" if name == "33.jpg" else content for content, name in zip(contents, names, strict=True)], names

    with pytest.raises(UserError, match=r"^33\.jpg: "):
        workers.decode(damaged, np.arange(60), empty(60))
    check(workers, 60)


def test_errors_can_be_returned_by_place(workers: DecodePool, tmp_path: Path) -> None:
    """Some examples are files that the processes read themselves."""
    (tmp_path / "good.jpg").write_bytes(IMAGES[5])
    (tmp_path / "empty.jpg").touch()

    def mixed(places: np.ndarray) -> tuple[list[bytes | None], list[str]]:
        files = {0: "good.jpg", 31: "empty.jpg", 32: "absent.jpg"}
        contents = [None if place in files else b"x" if place == 40 else IMAGES[place % 30] for place in places]
        return contents, [str(tmp_path / files.get(int(place), f"{place}.jpg")) for place in places]

    out, wrong = empty(60), {}
    workers.decode(mixed, np.arange(60), out, wrong)
    names = {place: Path(reason.partition(":")[0]).name for place, reason in wrong.items()}
    assert names == {31: "empty.jpg", 32: "absent.jpg", 40: "40.jpg"}
    expected = DECODED[np.arange(60) % 30]
    expected[0], expected[[31, 32, 40]] = DECODED[5], 7
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("returned", [True, False])
def test_a_process_that_is_killed_is_replaced(own_workers: Own, returned: bool) -> None:
    workers, processes = own_workers
    processes[0].kill()
    if returned:
        check(workers, wrong={})
    else:
        with pytest.raises(UserError, match="-9"):
            workers.decode(read, np.arange(200), empty(200))
    check(workers)


def kill_while_decoding(monkeypatch: pytest.MonkeyPatch, name: str, times: float) -> None:
    """Kills a process that is to decode an example, so many times."""
    decode = module._Worker.decode

    def deadly(worker: module._Worker, contents: list[bytes | None], names: list[str]) -> object:
        nonlocal times
        if name in names and times > 0:
            times -= 1
            worker._process.kill()
        return decode(worker, contents, names)

    monkeypatch.setattr(module._Worker, "decode", deadly)


def test_an_example_that_ends_its_process_is_named(own_workers: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_while_decoding(monkeypatch, "77.jpg", np.inf)
    out, wrong = empty(200), {}
    own_workers[0].decode(read, np.arange(200), out, wrong)
    assert wrong.keys() == {77}
    assert wrong[77].startswith("77.jpg: ")
    expected = DECODED[np.arange(200) % 30]
    expected[77] = 7
    np.testing.assert_array_equal(out, expected)


def test_a_process_that_ends_once_is_not_blamed_on_a_file(own_workers: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed four times on the way to one image, which the fourth time is alone."""
    kill_while_decoding(monkeypatch, "7.jpg", 4)
    monkeypatch.setattr(own_workers[0], "_count", 1)  # chunks of 10, 5, 3 or 2, 2 or 1, 1
    check(own_workers[0], 20, wrong={})


def test_one_that_is_killed_while_it_replies(own_workers: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    workers, _ = own_workers

    class Half:
        """The beginning of a line, and then nothing."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def readline(self) -> bytes:
            return self.stream.readline()[:1]

        def close(self) -> None:
            self.stream.close()

    worker = workers._idle.get()
    assert worker is not None
    worker._process.stdout = Half(worker._process.stdout)  # type: ignore[assignment]
    for _ in range(cores() - 1):
        workers._idle.put(workers._idle.get())
    workers._idle.put(worker)
    wait = worker._process.wait
    monkeypatch.setattr(worker._process, "wait", lambda *_: (worker._process.kill(), wait())[1])
    check(workers, wrong={})


@pytest.mark.parametrize(("executable", "reason"), [("false", "(1)"), ("absent", os.strerror(2))])
def test_one_that_cannot_start_is_not_blamed_on_a_file(
    executable: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, wrong = make_pool(), {}
    with monkeypatch.context() as patch:
        patch.setattr(module.sys, "executable", shutil.which(executable) or executable)
        with pytest.raises(UserError, match=re.escape(reason)):
            pool.decode(read, np.arange(40), empty(40), wrong)
    assert wrong == {}
    check(pool, 40)  # and the next time all can
    assert len([pool._idle.get() for _ in range(cores())]) == cores()


def test_a_few_need_no_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    pool = make_pool()
    (tmp_path / "file.jpg").write_bytes(IMAGES[0])
    names = [str(tmp_path / "file.jpg"), str(tmp_path / "absent.jpg")]
    out, wrong = empty(3), {}
    pool.decode(lambda places: ([None], [names[places[0] - 1]]), np.array([1, 2]), out, wrong)
    assert wrong.keys() == {2}
    assert names[1] in wrong[2]
    np.testing.assert_array_equal(out[1], DECODED[0])
    assert (out[[0, 2]] == 7).all()
    with pytest.raises(UserError, match=r"absent\.jpg"):
        pool.decode(lambda places: ([None], [names[places[0] - 1]]), np.array([1, 2]), out)


def test_the_working_directory_names_files_and_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes start in one folder, and files are named in another."""
    for folder in ("start", "later"):
        (tmp_path / folder).mkdir()
    for name in ("json", "mmap", "numpy", "PIL"):
        (tmp_path / "start" / f"{name}.py").write_text("open('imported', 'w').close(); raise SystemExit(3)")
    monkeypatch.chdir(tmp_path / "start")
    pool = make_pool()
    check(pool, 20)
    assert not Path("imported").exists()
    monkeypatch.chdir(tmp_path / "later")
    Path("here.jpg").write_bytes(IMAGES[4])
    names = ["here.jpg"] * 19 + ["absent.jpg"]
    out, wrong = empty(20), {}
    pool.decode(lambda places: ([None] * len(places), [names[place] for place in places]), np.arange(20), out, wrong)
    assert [(place, reason.partition(":")[0]) for place, reason in wrong.items()] == [(19, "absent.jpg")]
    np.testing.assert_array_equal(out[:19], DECODED[[4] * 19])


def test_they_outlive_the_signals_that_stop_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the ones that come while they start."""
    popen, started = subprocess.Popen, []

    def stop(process: subprocess.Popen) -> subprocess.Popen:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        return process

    def start(*args: object, **options: object) -> subprocess.Popen:
        started.append(popen(*args, **options))  # type: ignore[call-overload]
        return stop(started[-1])

    monkeypatch.setattr(module.subprocess, "Popen", start)
    workers = make_pool()
    check(workers, 20)
    for process in started:  # which are ready by now
        stop(process)
    check(workers)
    assert len(started) <= cores()
    assert all(process.poll() is None for process in started)


def test_one_that_is_stopped_is_not_waited_for(own_workers: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    workers, processes = own_workers
    processes[0].send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    workers.close()
    assert time.monotonic() - begin < 10
    assert [process.poll() for process in processes] == [-signal.SIGKILL] + [0] * (len(processes) - 1)


@pytest.mark.parametrize("closed", [True, False])
def test_they_end_where_the_pool_is_closed_or_gone(closed: bool) -> None:
    pool = make_pool()
    check(pool, max(20, 2 * cores()))
    workers = [pool._idle.get() for _ in range(cores())]
    processes = [worker._process for worker in workers if worker is not None]
    for worker in workers:
        pool._idle.put(worker)
    del workers, worker
    if closed:
        pool.close()
        assert [process.poll() for process in processes] == [0] * cores()
        check(pool, 20)  # starts others
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


@pytest.mark.slow
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
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    numbers = [int(number) for number in done.stdout.split()]
    assert len(numbers) == cores()
    until = time.monotonic() + 60
    while any(map(runs, numbers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(runs, numbers))


def runs(number: int) -> bool:
    """Returns whether a process runs: one that has ended may stay, until its parent asks what became of it."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
