"""How processes find each other and agree: really two, over loopback."""

import socket
import subprocess
import sys
from typing import Any

import pytest

from agegender_jax import distributed
from agegender_jax.errors import UserError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"coordinator": "a:1"}, "belong together; give all three, or --distributed"),
        ({"processes": 2, "process": 0}, "belong together"),
        ({"automatic": True, "process": 0}, "--distributed finds the processes by itself"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "--coordinator=a is not right; it must be HOST:PORT"),
        ({"coordinator": "a:b", "processes": 2, "process": 0}, "it must be HOST:PORT"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "with --processes=2 it must be 0 to 1"),
        ({"coordinator": "a:1", "processes": 2, "process": -1}, "--process=-1 is out of range"),
    ],
)
def test_flags_that_do_not_fit_together(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        distributed.initialize(**options)


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
    print(open(folder + "/file").read() == "", distributed.from_primary(process))
for failing, error in ((0, Refused("no speakers")), (1, UserError("disk full")), (1, KeyError("key"))):
    try:
        with distributed.primary_first():
            if process == failing:
                raise error
    except Exception as caught:
        print(type(caught).__name__, caught)
for failing in (0, 1):  # after an exchange that the other may not have come by
    try:
        with distributed.primary_first():
            said = distributed.from_primary(failing)
            if process == failing:
                raise Refused(f"no speakers {said}")
    except Refused as caught:
        print(caught)
try:
    with distributed.all_or_none():
        said = distributed.from_primary("no weights")
        if process == 1:
            raise UserError(said)
except UserError as caught:
    print(caught)
with distributed.primary_first():
    print("end", distributed.from_primary(process))
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_two_processes_agree(tmp_path: Any) -> None:
    at = free_address()
    processes = [start(TOGETHER, at, str(number), str(tmp_path)) for number in range(2)]
    found = [process.communicate(timeout=60) for process in processes]
    first, second = (out.splitlines() for out, _ in found)
    assert first[0] == "True True ''", found
    assert second[0] == "False True 'Process 1: '", found
    assert first[1] == second[1] == "True False {'of': 0}"
    assert first[2] == second[2] == "True 0"
    assert first[3] == second[3] == "Refused no speakers"
    assert first[4] == second[4] == "UserError disk full"
    assert second[5] == "KeyError 'key'"
    assert first[5] == "UserError Process 1 failed with KeyError: 'key'; see what it printed."
    assert first[6:] == second[6:] == ["no speakers 0", "no speakers 1", "no weights", "end 0"]
    assert [process.returncode for process in processes] == [0, 0]


ENDS = """
import sys, time
from pathlib import Path
from agegender_jax import distributed, recipe
from agegender_jax.errors import UserError
from agegender_jax.train import command, loop, setup

process = int(sys.argv[2])
distributed.PATIENCE = 1.0

def checked(recipe, *_):
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

setup.check_recipe, command.train_recipe = checked, train
processes = {"coordinator": sys.argv[1], "processes": 2, "process": process, "timeout": 30}
sys.exit(command.command(recipe.base(), workdir=Path("nowhere"), data_dir=Path("nowhere"), processes=processes))
"""


def test_an_error_of_one_process_stops_it_whatever_the_others_do(tmp_path: Any) -> None:
    """Before training, all hear of it; while the others wait in a step, the one that failed does not wait for them."""
    at = free_address()
    waiting, failed = processes = [start(ENDS, at, str(number)) for number in range(2)]
    try:
        out, error = failed.communicate(timeout=60)
        assert (failed.returncode, out) == (2, "no such weights\n"), error
        assert "Process 1: a damaged picture" in error
    finally:
        for process in processes:
            process.kill()
    assert waiting.communicate()[0] == "no such weights\n"


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


def test_processes_that_do_not_come_are_a_sentence() -> None:
    """The coordinator, or whoever it waits for: a trace of C++ would be JAX's own end."""
    addresses = [free_address() for _ in range(2)]
    processes = [start(ALONE, at, str(number)) for number, at in enumerate(addresses)]
    nowhere = start(NOWHERE)
    for process, at in zip(processes, addresses, strict=True):
        _, error = process.communicate(timeout=60)
        assert process.returncode == 2
        sentence = error.splitlines()[-1]
        assert f"The processes did not find each other within 2 s at {at}; check that process 0 runs there" in sentence
        assert "Check failure" not in error
    out, error = nowhere.communicate(timeout=60)
    assert "--distributed finds no cluster (coordinator_address should be defined.); start the processes" in out, error
