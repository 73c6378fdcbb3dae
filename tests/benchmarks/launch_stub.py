"""Leaves behind what `launch.py` does, with metrics that follow from its flags: 100 examples, a step in 20 ms."""

import json
import os
import signal
import sys
import time
from pathlib import Path

EXAMPLES, EXIT_PREEMPTED = 100, 75


def main() -> int:
    flags = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[1:])
    if "config.fail" in flags:
        print("some warning\nThe data are missing; give --manual_dir.", file=sys.stderr)
        return 2
    workdir, process = Path(flags["workdir"]), int(flags.get("process", 0))
    devices = int(os.environ.get("JAX_NUM_CPU_DEVICES", 1)) * int(flags.get("processes", 1))
    batch = int(flags.get("config.train.batch_size", 10))
    total = max(1, round(float(flags["config.train.epochs"]) * EXAMPLES / batch))
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))

    workdir.mkdir(parents=True, exist_ok=True)
    metrics = workdir / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    with open(metrics if process == 0 else os.devnull, "a", buffering=1) as file:
        for step in range(done + 1, total + 1):
            loss = (1 + 1e-7 * devices) / step
            line = {"step": step, "train/loss": loss, "images_per_second": batch * devices, "seconds": 0.02 * step}
            file.write(json.dumps(line) + "\n")
            time.sleep(0.02)
            if stopped:
                return EXIT_PREEMPTED
    if process == 0:
        cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", workdir / "cache"))
        summary = {
            "train_examples": EXAMPLES,
            "first_step_seconds": 2.0 if cache.exists() else 7.0,
            "versions": {"jax": "1"},
            "hardware": {"backend": "cpu", "devices": devices, "device": "cpu", "processor": "Z80", "cores": 2},
        }
        cache.mkdir(exist_ok=True)
        (workdir / "summary.json").write_text(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
