"""Whether a dataset is resident or streamed, and the memory by which that is chosen."""

from pathlib import Path
from typing import Any

import jax
import psutil
import pytest

from agegender_jax.data import resources
from agegender_jax.data.dataset import LoadingOptions, choose_placement
from agegender_jax.data.preprocess import ImagePreprocessor, PreprocessOptions

EXAMPLE = 32 * 32 * 3  # bytes
PREPROCESSOR = ImagePreprocessor(PreprocessOptions(32))


class Device:
    """A device with so much memory."""

    device_kind = "a chip"

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    def memory_stats(self) -> dict[str, int] | None:
        return None if self._limit is None else {"bytes_limit": self._limit, "bytes_in_use": 5}


@pytest.mark.parametrize(("limit", "streams"), [(320 * EXAMPLE, False), (320 * EXAMPLE - 2, True)])
@pytest.mark.parametrize("has_own_memory", [True, False])
def test_auto_streams_what_takes_more_than_half_of_a_devices_memory(
    monkeypatch: pytest.MonkeyPatch, limit: int, streams: bool, has_own_memory: bool
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(limit if has_own_memory else None)] * 4)
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    monkeypatch.setattr(resources, "available_memory", lambda: 4 * limit)
    streamed, line = choose_placement(LoadingOptions(), 160, PREPROCESSOR)
    assert streamed == streams
    assert line.startswith("stream" if streams else "resident")
    assert ("a chip" in line) == has_own_memory
    for loader in ("stream", "resident"):  # what is asked for is taken
        assert choose_placement(LoadingOptions(loader), 160, PREPROCESSOR)[0] == (loader == "stream")


@pytest.mark.parametrize(("copy", "evaluated"), [(1, 32), (2, 28), (4, 28)])
def test_the_line_states_the_memory_in_bytes(copy: int, evaluated: int) -> None:
    """An evaluation of 27 is rounded up to a multiple of the 8, 4 or 2 shards of the batch."""
    options = LoadingOptions("stream", dispatch_examples=80, eval_batch=27, devices_per_copy=copy)
    line = choose_placement(options, 160, PREPROCESSOR)[1]
    # Two dispatches ahead, one in use and one that waits; of an evaluation likewise, and four more in flight.
    assert f"{copy * (4 * 80 + 8 * evaluated) * EXAMPLE:,} bytes" in line
    assert f"{2 * (80 + evaluated) * EXAMPLE:,} on the way" in line


def cgroup(limit: Any, current: int, inactive: int = 0) -> dict[str, Any]:
    return {"memory.max": limit, "memory.current": current, "memory.stat": f"anon 5\ninactive_file {inactive}"}


def old_cgroup(limit: int, current: int, inactive: int) -> dict[str, Any]:
    """Of version 1, which has no word for no limit."""
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": current, "memory.stat": stat}


@pytest.mark.parametrize(
    ("cgroups", "expected"),
    [
        ({"memory/old": old_cgroup(400_000, 100_000, 20_000), "memory": old_cgroup(2**63 - 4096, 9, 0)}, 320_000),
        ({"memory": old_cgroup(70_000, 5_000, 0), "a/b": cgroup(90_000, 1_000)}, 65_000),
        ({}, 1_024_000),
        ({"a/b/c": cgroup("max", 7)}, 1_024_000),
        ({"a/b/c": cgroup(500_000, 100_000, inactive=30_000)}, 430_000),  # pages of files are given back
        ({"a/b/c": cgroup("max", 7), "a": cgroup(600_000, 450_000), "a/b": cgroup(300_000, 20_000)}, 150_000),
        ({"": cgroup(90_000, 1_000)}, 89_000),  # a container's, seen from inside
        ({"a/b/c": cgroup(500, 600)}, 0),
    ],
)
def test_available_memory_is_the_least_that_host_and_cgroups_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroups: dict[str, dict[str, Any]], expected: int
) -> None:
    memory = psutil.virtual_memory()._replace(available=1_024_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert resources.available_memory(tmp_path) == 1_024_000  # no Linux
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("9:cpu,cpuacct:/a\n4:memory:/old\n0::/a/b/c\n")
    for name, files in cgroups.items():
        folder = tmp_path / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(f"{text}\n")
    assert resources.available_memory(tmp_path) == expected
