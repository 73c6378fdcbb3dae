"""`agegender classical`: an SVM and a random forest on embeddings."""

import argparse
from typing import Any

from agegender_jax.commands.common import add, add_json, check_new, prepare, title, to_path, write_json

_CLASSICAL = ("svm", "forest")  # as in evaluate/classical.py, which takes seconds to import

EXAMPLES = """examples:
  agegender classical features.npz
  agegender classical features.npz --only forest --json forest.json
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "classical",
        "fit an SVM and a random forest on embeddings",
        "Fits scikit-learn's support vector machine and random forest on the training part of a file that `agegender "
        "features` wrote, one for each head, and measures them on its test part. Embeddings are standardised by the "
        "training part. The settings are scikit-learn's own, but the forest of ages tries a third of the numbers at "
        "each cut (Breiman 2001), not all of them: nothing is chosen by the data. 14,000 examples take minutes.",
        EXAMPLES,
    )
    parser.add_argument("file", type=to_path, metavar="FILE", help="what `agegender features` wrote")
    parser.add_argument("--only", type=_classical_models, default=_CLASSICAL, help="svm, forest or both [svm,forest]")
    add_json(parser)
    parser.set_defaults(function=_classical)


def _classical(arguments: argparse.Namespace) -> int:
    check_new(arguments.json, "--json")
    prepare()
    from agegender_jax.evaluate.classical import CLASSICAL, classical
    from agegender_jax.evaluate.features import read_features
    from agegender_jax.evaluate.summary_text import ABOUT_INTERVALS, metrics_table

    result = classical(read_features(arguments.file), arguments.only)
    print(title(result))
    print(f"fitted on {result['train_examples']} examples, tested on {result['test_examples']}")
    if result["heads_left_out"]:
        print(f"heads left out, which have neither classes nor years: {', '.join(result['heads_left_out'])}")
    columns = {name: result[name] for name in CLASSICAL if name in result} | {"baseline": result["baseline"]}
    print(metrics_table(columns, result["intervals"]))
    print(ABOUT_INTERVALS)
    names = ", ".join(result["baseline_names"].values())
    print(f"baseline: the same prediction for every example, chosen on the training labels ({names})")
    write_json(arguments.json, result)
    return 0


def _classical_models(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if not set(names) <= set(_CLASSICAL):
        raise argparse.ArgumentTypeError(f"{text!r} is none of: svm, forest, svm,forest")
    return tuple(name for name in _CLASSICAL if name in names)
