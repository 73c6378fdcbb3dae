"""What the machine offers: cores, memory of the host and memory of the devices."""

import os
from pathlib import Path

import jax
import psutil


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_memory() -> tuple[float, str]:
    """Returns the bytes of memory of one device, and what that memory is called in messages."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return limit, f"{device.device_kind}'s memory"
    # Several devices of a host share its memory, and each keeps a copy.
    return available_memory() / jax.local_device_count(), "the memory that is free for each device"


def available_memory(root: Path = Path("/")) -> int:
    """Returns the bytes of memory that this process can take without swapping.

    psutil knows the host alone, and a container or a Slurm job is killed at the limit of its cgroup, often far below:
    the least that the cgroup (version 2) of this process, and those around it, leave is taken where there is one.
    Other processes of the same run are not considered: set `config.compute.loader` where several share a host.
    """
    available = [psutil.virtual_memory().available]
    mount = root / "sys/fs/cgroup"
    try:
        group = mount / (root / "proc/self/cgroup").read_text().partition("0::/")[2].partition("\n")[0].lstrip("/")
    except OSError:  # no Linux
        return available[0]
    for folder in [group, *group.parents]:
        try:
            limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            # The kernel gives back the pages of files that were not used of late.
            available.append(max(0, limit - used + int(stat.get("inactive_file", 0))))
        except (OSError, ValueError):  # it has no limit ("max")
            continue
    return min(available)
