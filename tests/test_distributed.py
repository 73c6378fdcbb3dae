"""How processes meet and agree: really two, over loopback."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import distributed
from agegender_jax.errors import UserError


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"coordinator": "a:1"}, "--process "),
        ({"processes": 2, "process": 0}, "--coordinator"),
        ({"automatic": True, "process": 0}, "--distributed"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "--coordinator=a "),
        ({"coordinator": "a:b", "processes": 2, "process": 0}, "--coordinator=a:b "),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "--process=2 "),
        ({"coordinator": "a:1", "processes": 2, "process": -1}, "--process=-1 "),
    ],
)
def test_flags_that_do_not_fit_together(options: dict[str, Any], flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        distributed.initialize(**options)


def test_no_private_module_of_a_library_is_imported() -> None:
    """One that moves with a release would break every command."""
    private = re.compile(r"\bjax\._src\b|\btensorflow_datasets\.core\b")
    for package in ("agegender_jax", "tfds_builders"):
        for path in (Path(__file__).parents[1] / package).rglob("*.py"):
            assert not private.search(path.read_text(encoding="utf-8")), path


def test_one_process_is_the_primary_one_and_agrees_with_itself() -> None:
    distributed.initialize()
    assert (distributed.is_primary(), distributed.is_multiprocess(), distributed.name()) == (True, False, "")
    assert (distributed.all_agree(True), distributed.all_agree(False)) == (True, False)
    assert distributed.from_primary([1, "a"]) == [1, "a"]
    with pytest.raises(ZeroDivisionError), distributed.primary_first():
        _ = 1 / 0


TOGETHER = """
import sys, time
from agegender_jax import distributed
from agegender_jax.errors import Refused, UserError

process, folder = int(sys.argv[2]), sys.argv[3]
distributed.initialize(coordinator=sys.argv[1], processes=2, process=process, timeout=30)
print(distributed.is_primary(), distributed.is_multiprocess(), repr(distributed.name()))
print(distributed.all_agree(True), distributed.all_agree(process == 0), distributed.from_primary({"of": process}))
with distributed.primary_first():
    if process == 0:
        time.sleep(0.5)
        open(folder + "/file", "w").close()
    print(open(folder + "/file").read() == "")
for failing, error in ((0, Refused("no speakers")), (1, UserError("disk full")), (1, KeyError("key"))):
    try:
        with distributed.primary_first():
            if process == failing:
                raise error
    except Exception as caught:
        print(type(caught).__name__, caught)
for failing in (0, 1):  # before an exchange that the other one waits at, and after it
    for early in (True, False):
        try:
            with distributed.all_or_none():
                if process == failing and early:
                    raise Refused("early")
                value = distributed.from_primary(failing)
                if process == failing:
                    raise Refused(f"late {value}")
        except Refused as caught:
            print(caught)
print("end", distributed.from_primary("x" * 10000 + str(process))[-2:])
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path) -> None:
    at = free_address()
    processes = [start(TOGETHER, at, str(number), str(tmp_path)) for number in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    first, second = ([line for line in out.splitlines() if "[Gloo]" not in line] for out, _ in outputs)
    assert first[0] == "True True ''", outputs
    assert second[0] == "False True 'Process 1: '", outputs
    assert first[1:5] == second[1:5] == ["True False {'of': 0}", "True", "Refused no speakers", "UserError disk full"]
    assert second[5] == "KeyError 'key'"
    assert first[5].startswith("UserError Process 1 failed with KeyError: 'key'")
    assert first[6:] == second[6:] == ["early", "late 0", "early", "late 1", "end x0"]
    assert [process.returncode for process in processes] == [0, 0]


ENDS = """
import sys, time
from pathlib import Path
from agegender_jax import distributed, recipe
from agegender_jax.errors import UserError
from agegender_jax.train import command, loop, setup

process = int(sys.argv[2])
distributed.EXIT_SECONDS = 1.0

def check(recipe, *_):
    if process == 1:
        raise UserError("no such weights")
    return recipe

def train(*args, **options):
    try:
        loop.train_recipe(*args, **options)
    except UserError as caught:
        print(caught, flush=True)
    if process == 1:
        raise UserError("a damaged picture")
    time.sleep(1000)  # as in a step, which needs both

setup.check_recipe, command.train_recipe = check, train
processes = {"coordinator": sys.argv[1], "processes": 2, "process": process, "timeout": 60}
sys.exit(command.command(recipe.base(), workdir=Path("nowhere"), data_dir=Path("nowhere"), processes=processes))
"""


@pytest.mark.slow
def test_an_error_of_one_process_stops_it_whatever_the_others_do() -> None:
    """Before training, all raise it; while the others wait in a step, the one that failed does not wait for them."""
    at = free_address()
    waiting, failed = processes = [start(ENDS, at, str(number)) for number in range(2)]
    try:
        out, error = failed.communicate(timeout=120)
        assert failed.returncode == 2, error
        assert out.endswith("no such weights\n"), error
        assert "Process 1: a damaged picture" in error
        assert "no such weights\n" in iter(waiting.stdout.readline, "")  # perhaps later than the other one ends
    finally:
        for process in processes:
            process.kill()
            process.communicate()


ALONE = """
import sys
from agegender_jax import distributed

distributed.initialize(coordinator=sys.argv[1], processes=2, process=int(sys.argv[2]), timeout=2)
"""

NOWHERE = """
import os
from agegender_jax import distributed
from agegender_jax.errors import UserError

for name in [name for name in os.environ if name.startswith(("SLURM", "OMPI", "KUBERNETES", "JAX", "TPU"))]:
    del os.environ[name]
try:
    distributed.initialize(automatic=True)
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_processes_that_do_not_come_are_a_sentence() -> None:
    """The coordinator, or whoever it waits for: JAX itself would end with a trace of C++."""
    addresses = [free_address() for _ in range(2)]
    processes = [start(ALONE, at, str(number)) for number, at in enumerate(addresses)]
    nowhere = start(NOWHERE)
    for process, at in zip(processes, addresses, strict=True):
        _, error = process.communicate(timeout=120)
        assert process.returncode == 2
        assert f"--coordinator={at}" in error.splitlines()[-1]
        assert "Check failure" not in error
    out, error = nowhere.communicate(timeout=120)
    assert "--distributed" in out, error
