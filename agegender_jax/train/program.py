"""The training steps compiled, and what they need of the devices' memory."""

from typing import Any

import jax

from agegender_jax.data.loader import memory
from agegender_jax.errors import UserError
from agegender_jax.sharding import bytes_per_device
from agegender_jax.train.state import TrainState

_MEND = (
    "Lower config.train.batch_size, raise config.train.microbatches, set config.compute.remat=True or "
    "config.compute.loader=stream, or take more devices and config.compute.fsdp=True."
)


def compile_steps(train_steps: jax.stages.Wrapped, abstract: TrainState, data: Any, batches: Any) -> tuple[Any, str]:
    """Compiles the steps for the shapes that they will be called with; nothing is placed on a device for that.

    Args:
      train_steps: from `step.jit_train_steps`.
      abstract: shapes of the state, from `start.abstract_state`.
      data: shapes of what lies on the devices all the time, from `feed.shapes`.
      batches: shapes of the batches of a dispatch, likewise.

    Returns:
      The program, to be called as `train_steps` is, and a line on the memory that it takes.

    Raises:
      UserError: it takes more than a device has.
    """
    try:
        program = train_steps.lower(abstract, data, batches).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"A step does not fit into the memory of a device. {_MEND}") from error
    return program, memory_of(program, data, abstract)


def memory_of(program: Any, data: Any, abstract: TrainState) -> str:
    """What a compiled program needs of each device's memory, in a line; "" where the compiler does not say.

    Raises:
      UserError: it is more than a device has.
    """
    found = program.memory_analysis()
    if found is None:
        return ""
    limit, where = memory()
    needed = found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes
    needed -= found.alias_size_in_bytes  # the new state lies where the old one did
    text = (
        f"{needed / 1e9:.2f} GB of {where}, {limit / 1e9:.2f} GB: {bytes_per_device(data) / 1e9:.2f} of data, "
        f"{bytes_per_device(abstract) / 1e9:.2f} of state, {found.temp_size_in_bytes / 1e9:.2f} while it computes"
    )
    if needed > limit:
        raise UserError(f"A step needs {text}. {_MEND}")
    return f"         a step takes {text}"
