"""The distributions that a model predicts for a list of examples."""

from collections import deque
from collections.abc import Callable, Mapping
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

    The last batch is padded and the padding is dropped from the results, so every example counts exactly once on any
    number of devices.

    `graphdef` is of `split_model`. `compute` takes the model and images, float32 `[batch, size, size, 3]`, and
    returns arrays `[batch, ...]` by name, see `head_distributions`. `batch_size` is rounded up to a multiple of the
    devices.
    """

    def __init__(
        self,
        graphdef: Any,
        compute: Callable[[Any, jax.Array], dict[str, jax.Array]],
        batch_size: int,
        preprocessor: Preprocessor,
        mesh: jax.sharding.Mesh,
    ) -> None:
        self._mesh, self._batch_size = mesh, batch_size
        sharding = by_batch(mesh)

        def distributions(model_state: Any, data: Any, batch: Any, mirrored: jax.Array) -> Any:
            content = jax.lax.with_sharding_constraint(content_of(data, batch), sharding)
            images = preprocessor.eval_transform(content, mirrored)
            # Parameters that lie split over `data` are gathered as layers need them.
            model_state = jax.lax.with_sharding_constraint(model_state, state_shardings(model_state, mesh))
            return compute(nnx.merge(graphdef, *model_state), images)

        self._distributions = jax.jit(distributions, out_shardings=replicated(mesh))

    def distributions(
        self,
        model_state: Any,
        loader: EvalLoader,
        rows: np.ndarray,
        *,
        flip_average: bool = False,
        batch_size: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Computes the distributions for rows of the loader, int `[m]`: arrays `[m, ...]` by head.

        `model_state` is `(params, stats)`. With `flip_average` each is the mean over an image and its mirror image.
        Another `batch_size` than the evaluator's is compiled when it is first used.
        """
        devices = self._mesh.shape["data"]
        size = -(-(batch_size or self._batch_size) // devices) * devices
        padding = -len(rows) % size if len(rows) else size
        # With a row that was asked for: where examples are streamed, the padding is decoded too.
        mode: Any = "edge" if len(rows) else "constant"
        padded = np.pad(np.asarray(rows, np.int32), (0, padding), mode).reshape(-1, size)
        everywhere = replicated(self._mesh)
        views = [put(np.array(mirrored), everywhere) for mirrored in ([False, True] if flip_average else [False])]
        in_flight: deque[list[dict[str, jax.Array]]] = deque()
        parts = []

        def read() -> None:
            of_views = jax.device_get(in_flight.popleft())
            # Of the distributions and not of the logits: those of an ordinal head are of thresholds.
            parts.append({name: np.mean([view[name] for view in of_views], axis=0) for name in of_views[0]})

        with closing(loader.eval_batches(padded)) as batches:
            for batch in batches:
                in_flight.append([self._distributions(model_state, loader.data, batch, view) for view in views])
                if len(in_flight) > IN_FLIGHT:
                    read()
        while in_flight:
            read()
        return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}


def head_distributions(heads: Mapping[str, Head]) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """Returns what an `Evaluator` computes of a model: the distribution of each head, by name."""

    def compute(model: Any, images: jax.Array) -> dict[str, jax.Array]:
        outputs = model(images)
        return {name: head.distribution(outputs[name]) for name, head in heads.items()}

    return compute
