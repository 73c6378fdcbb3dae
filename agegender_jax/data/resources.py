"""What the machine offers: cores, memory of the host and memory of the devices."""

import os
from pathlib import Path

import jax
import psutil

_CGROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Where cgroups lie, by controllers as `/proc/self/cgroup` names them in versions 2 and 1: the folder, the files of the
limit and of what is used, and the key in `memory.stat` of the pages of files that are given back."""


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
    the least that the cgroup of this process, and those around it, leave is taken where there is one. Other processes
    of the same run are not considered: set `config.compute.loader` where several share a host.
    """
    available = [psutil.virtual_memory().available]
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return available[0]
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers not in _CGROUPS:
            continue
        mount, limit, current, inactive = _CGROUPS[controllers]
        folder = root / "sys/fs/cgroup" / mount / group.lstrip("/")
        for parent in [folder, *folder.parents]:
            try:
                left = int((parent / limit).read_text()) - int((parent / current).read_text())
                stat = dict(line.split() for line in (parent / "memory.stat").read_text().splitlines())
                # The kernel gives back the pages of files that were not used of late.
                available.append(max(0, left + int(stat.get(inactive, 0))))
            except (OSError, ValueError):  # it has no limit ("max"), or cannot be seen from inside a container
                continue
    return min(available)
