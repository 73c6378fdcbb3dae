"""What the best checkpoint is chosen by."""

from collections.abc import Mapping

from agegender_jax.errors import UserError
from agegender_jax.evaluate.targets import target_heads
from agegender_jax.metrics import Metric
from agegender_jax.models.heads import Head


def selection_metric(name: str, heads: Mapping[str, Head]) -> Metric:
    """Returns the metric `head/metric` that `config.evaluate.select` names.

    Raises:
      UserError: there is no such metric, or neither more nor less of it is better.
    """
    selectable = {
        f"{head_name}/{metric.name}": metric
        for head_name, head in target_heads(heads).items()
        for metric in head.metrics
        if metric.higher_is_better is not None
    }
    if name not in selectable:
        raise UserError(
            f"config.evaluate.select={name!r} cannot choose a checkpoint; choose one of: {', '.join(selectable)}."
        )
    return selectable[name]


def selection_score(name: str, heads: Mapping[str, Head], validation: Mapping[str, float]) -> float:
    """Returns what the best checkpoint has most of: the selected metric, or its negative where less is better."""
    value = validation[name]
    return value if selection_metric(name, heads).higher_is_better else -value
