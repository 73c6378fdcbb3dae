"""Classical models on a run's embeddings: a support vector machine and a random forest, by scikit-learn.

They learn from the training part of the run's split and are measured on its test part. Nothing is chosen, so the
validation part is not used. Embeddings are standardised with mean and standard deviation of the training part. Settings
are scikit-learn's own: an RBF kernel with C = 1 and gamma = 1 / (numbers in an embedding), 100 trees.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from agegender_jax.errors import UserError
from agegender_jax.evaluate.features import Features
from agegender_jax.evaluate.targets import Target, baseline_targets, fit_baseline, measure_targets
from agegender_jax.evaluate.uncertainty import ends_of
from agegender_jax.labels import UNKNOWN
from agegender_jax.models.heads import AgeYearsHead, ClassHead
from agegender_jax.text import duration

CLASSICAL = ("svm", "forest")

_SEED = 0  # of the forest: the same file gives the same metrics
_CACHE = 500  # MB of kernel rows that the support vector machine keeps: a matter of time alone


def build_classical(name: str, *, of_classes: bool) -> Any:
    """Returns an estimator of scikit-learn, not fitted, for classes or for years, by a name of `CLASSICAL`.

    The support vector machine sees years standardised, since its settings C and epsilon are of their size.
    """
    if name == "svm":
        if of_classes:
            return SVC(cache_size=_CACHE)
        return TransformedTargetRegressor(SVR(cache_size=_CACHE), transformer=StandardScaler())
    if of_classes:
        return RandomForestClassifier(random_state=_SEED, n_jobs=-1)
    # A third of the numbers at each cut, as Breiman (2001) has it for regression; scikit-learn's own is all of them.
    return RandomForestRegressor(max_features=1 / 3, random_state=_SEED, n_jobs=-1)


def classical(features: Features, only: Sequence[str] = CLASSICAL, *, progress: bool = True) -> dict[str, Any]:
    """Fits classical models for every head on the training part, and measures them on the test part.

    Examples whose label is unknown are left out of a fit. A head is left out where there is nothing to learn (fewer
    than two classes, or no known years), or where its label is neither one class nor years.

    Returns:
      Metadata of the features, the number of examples, the names of the heads that were left out, the metrics by model
      and of the `baseline`, and `intervals`: by model and metric, the ends of its 95 % interval.

    Raises:
      UserError: the features hold no training or no test part, or nothing to learn.
    """
    train, test = features.part == "train", features.part == "test"
    for name, rows in (("train", train), ("test", test)):
        if not rows.any():
            raise UserError(f"These features hold nothing of the part {name}; write them with --split all.")
    known = {
        name: features.labels[name] != UNKNOWN if isinstance(head, ClassHead) else ~np.isnan(features.labels[name])
        for name, head in features.heads.items()
    }
    heads = {
        name: head
        for name, head in features.heads.items()
        if _learnable(head, features.labels[name][train], known[name][train])
    }
    if not heads:
        raise UserError("These features hold no label, one class or years, to learn from; write those of another run.")
    scaler = StandardScaler().fit(features.embedding[train])
    scaled = scaler.transform(features.embedding)
    metadata = ("run", "dataset", "synthetic", "protocol", "leaky", "age_groups", "split_sha256")
    result: dict[str, Any] = {name: features.metadata[name] for name in metadata} | {
        "train_examples": int(train.sum()),
        "test_examples": int(test.sum()),
        "heads_left_out": [name for name in features.heads if name not in heads],
        "intervals": {},
    }
    labels = {name: features.labels[name][test] for name in heads}
    for model_name in only:
        targets = {}
        for name, head in heads.items():
            of_classes, rows = isinstance(head, ClassHead), train & known[name]
            model = build_classical(model_name, of_classes=of_classes)
            started = time.monotonic()
            if progress:
                text = f"{model_name} for {name}, from {rows.sum()} examples of {scaled.shape[1]} numbers"
                print(text, end=" ... ", file=sys.stderr, flush=True)
            model.fit(scaled[rows], features.labels[name][rows])
            values = model.predict(scaled[test])
            predictions = {"class": values} if of_classes else {"years": values.astype(np.float32)}
            targets[name] = Target(head, predictions, labels[name])
            if progress:
                print(duration(time.monotonic() - started), file=sys.stderr)
        result[model_name] = measure_targets(targets)
        result["intervals"][model_name] = ends_of(targets, features.cluster[test])
    names, predictions = fit_baseline(heads, {name: features.labels[name][train] for name in heads})
    baseline = measure_targets(baseline_targets(heads, predictions, labels))
    return result | {"baseline": baseline, "baseline_names": names}


def _learnable(head: Any, label: np.ndarray, known: np.ndarray) -> bool:
    if isinstance(head, ClassHead):
        return len(np.unique(label[known])) > 1
    return isinstance(head, AgeYearsHead) and label.ndim == 1 and bool(known.any())
