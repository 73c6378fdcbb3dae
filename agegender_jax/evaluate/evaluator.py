"""The distributions that a model predicts for a list of examples."""

from collections import deque
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
from flax import nnx

from agegender_jax.data.dataset import IN_FLIGHT
from agegender_jax.data.loader import EvalLoader, content_of
from agegender_jax.data.preprocess import Preprocessor
from agegender_jax.mesh import by_batch, put, replicated
from agegender_jax.models.heads import Head
from agegender_jax.sharding import state_shardings


class Evaluator:
    """Runs a model over examples in batches of one static shape.

    The last batch is padded and the padding is dropped from the answers, so every example counts exactly once on any
    number of devices. Figures are computed on the host from the answers of all examples together.

    Args:
      graphdef: the model's structure, from `split_model`.
      heads: by name.
      batch_size: examples evaluated at once, rounded up to a multiple of the devices.
      inputs: how examples become what the network sees.
      mesh: devices.
    """

    def __init__(
        self,
        graphdef: Any,
        heads: Mapping[str, Head],
        batch_size: int,
        inputs: Preprocessor,
        mesh: jax.sharding.Mesh,
    ) -> None:
        self._heads = heads
        self._mesh = mesh
        devices = mesh.shape["data"]
        self._batch_size = -(-batch_size // devices) * devices
        sharding = by_batch(mesh)

        def distributions(model_state: Any, data: Any, batch: Any, mirrored: jax.Array) -> Any:
            content = jax.lax.with_sharding_constraint(content_of(data, batch), sharding)
            images = inputs.eval_transform(content, mirrored)
            # Parameters that lie split over `data` are gathered as layers need them.
            model_state = jax.lax.with_sharding_constraint(model_state, state_shardings(model_state, mesh))
            outputs = nnx.merge(graphdef, *model_state)(images)
            return {name: head.distribution(outputs[name]) for name, head in heads.items()}

        self._distributions = jax.jit(distributions, out_shardings=replicated(mesh))

    def distributions(
        self, model_state: Any, feed: EvalLoader, rows: np.ndarray, *, flip: bool = False
    ) -> dict[str, np.ndarray]:
        """Each head's distribution for the examples of `rows`.

        Args:
          model_state: `(params, stats)`.
          feed: of the examples.
          rows: int [m].
          flip: average over each image and its mirror image.

        Returns:
          Arrays `[m, ...]` by head.
        """
        padding = -len(rows) % self._batch_size if len(rows) else self._batch_size
        # With a row that was asked for: where examples are streamed, the padding is decoded too.
        mode: Any = "edge" if len(rows) else "constant"
        padded = np.pad(np.asarray(rows, np.int32), (0, padding), mode).reshape(-1, self._batch_size)
        everywhere = replicated(self._mesh)
        views = [put(np.array(mirrored), everywhere) for mirrored in ([False, True] if flip else [False])]
        in_flight: deque[list[dict[str, jax.Array]]] = deque()
        parts = []

        def read() -> None:
            found = jax.device_get(in_flight.popleft())
            # The mean of the distributions, not of the logits: what a head says may be averaged.
            parts.append({name: np.mean([view[name] for view in found], axis=0) for name in self._heads})

        with closing(feed.eval_batches(padded)) as batches:
            for batch in batches:
                in_flight.append([self._distributions(model_state, feed.data, batch, view) for view in views])
                if len(in_flight) > IN_FLIGHT:
                    read()
        while in_flight:
            read()
        return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in self._heads}
