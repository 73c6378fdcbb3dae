"""Which feed is chosen: resident or streamed, and the memory that this is told by."""

import os
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.data import loader
from agegender_jax.data.examples import cores
from agegender_jax.data.loader import choose
from agegender_jax.data.preprocess import ImagePreprocessor
from agegender_jax.data.source import Prepared

SIZE = 32  # pixels


def sized(**compute: Any) -> ConfigDict:
    recipe = recipes.base()
    recipe.dataset.update(name="utkface", image_size=SIZE)
    recipe.compute.update(**compute)
    return recipe


class Device:
    """A device with so much memory."""

    device_kind = "a chip"

    def __init__(self, limit: int | None) -> None:
        self._limit = limit

    def memory_stats(self) -> dict[str, int] | None:
        return None if self._limit is None else {"bytes_limit": self._limit, "bytes_in_use": 5}


DECODED = 160 * SIZE * SIZE * 3  # bytes


@pytest.mark.parametrize(("limit", "streams"), [(2 * DECODED, False), (2 * DECODED - 2, True)])
@pytest.mark.parametrize("has_own_memory", [True, False])
def test_auto_streams_what_takes_more_than_half_of_a_devices_memory(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, limit: int, streams: bool, has_own_memory: bool
) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(limit if has_own_memory else None)] * 4)
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    monkeypatch.setattr(loader, "available_memory", lambda: 4 * limit)
    monkeypatch.setattr(Prepared, "open", lambda _: pytest.fail("the examples were opened"))
    found, line = choose(sized(), prepared, ImagePreprocessor(sized()))
    assert found == streams
    assert line.startswith("stream" if streams else "resident")
    assert "0.00 GB decoded, 50% of " in line
    assert ("a chip" in line) == has_own_memory


def test_what_is_asked_for_is_taken(prepared: Prepared, tmp_path: Path) -> None:
    for wanted, streams in (("stream", True), ("resident", False)):
        assert choose(sized(feed=wanted), prepared, ImagePreprocessor(sized()))[0] == streams


@pytest.mark.parametrize("model", [1, 2, 4])
def test_the_line_states_the_memory_in_bytes(prepared: Prepared, model: int) -> None:
    recipe = sized(loader="stream", model=model)
    recipe.train.update(batch_size=16, steps_per_dispatch=5)
    recipe.evaluate.batch_size = 27
    evaluated = {1: 32, 2: 28, 4: 28}[model]  # a multiple of the 8, 4 or 2 parts of the batch
    line = choose(recipe, prepared, ImagePreprocessor(recipe))[1]
    picture = SIZE * SIZE * 3
    # Two dispatches ahead, one in use and one that waits; of an evaluation likewise, and four more in flight.
    there = model * (4 * 5 * 16 + 8 * evaluated) * picture
    underway = 2 * (5 * 16 + evaluated) * picture
    assert f"at most {there:,} bytes of decoded examples on all devices and {underway:,} on the way" in line
    assert f"decoded by {cores()} processes" in line


def test_memory_is_what_the_system_says() -> None:
    found = loader.available_memory()
    assert 10**8 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def system(root: Path, cgroup: str, groups: dict[str, dict[str, Any]]) -> Path:
    """A file system of a host with 1,000 kB to be had, and with these files of cgroups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    1000 kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for group, files in groups.items():
        folder = root / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n")
    return root


def group(limit: Any, current: int, inactive: int = 0) -> dict[str, Any]:
    stat = f"anon 5\ninactive_file {inactive}"
    return {"memory.max": limit, "memory.current": current, "memory.stat": stat}


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({}, 1_024_000),
        ({"a/b/c": group("max", 7)}, 1_024_000),
        ({"a/b/c": group(500_000, 100_000)}, 400_000),
        ({"a/b/c": group(500_000, 100_000, inactive=30_000)}, 430_000),  # pages of files are given back
        ({"a/b/c": group("max", 7), "a": group(600_000, 450_000), "a/b": group(300_000, 20_000)}, 150_000),
        ({"": group(90_000, 1_000)}, 89_000),  # a container's, seen from inside
        ({"a/b/c": group(500, 600)}, 0),
        ({"a/b/other": group(500, 1)}, 1_024_000),
    ],
)
def test_memory_is_what_the_cgroups_leave(tmp_path: Path, groups: dict[str, dict[str, Any]], expected: int) -> None:
    assert loader.available_memory(system(tmp_path, "0::/a/b/c\n", groups)) == expected


def test_cgroups_of_the_first_version_are_minded_too(tmp_path: Path) -> None:
    inner = {"memory.limit_in_bytes": 2**63 - 4096, "memory.usage_in_bytes": 5, "memory.stat": "total_inactive_file 1"}
    outer = {"memory.limit_in_bytes": 70_000, "memory.usage_in_bytes": 20_000, "memory.stat": "total_inactive_file 300"}
    cgroup = "5:devices:/\n4:memory:/job/step\n0::/\n"
    root = system(tmp_path, cgroup, {"memory/job/step": inner, "memory/job": outer})
    assert loader.available_memory(root) == 50_300


def test_a_system_that_says_nothing_has_all_of_the_hosts_memory(tmp_path: Path) -> None:
    assert loader.available_memory(tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
