"""`agegender explain`: where a finished run saw what it predicts."""

import argparse
import sys
from pathlib import Path
from typing import Any

from agegender_jax.commands.common import add, add_data, add_part, add_run, at_least, prepare, to_path, walk
from agegender_jax.labels import DISCLAIMER
from agegender_jax.text import printable

EXAMPLES = """examples:
  agegender explain runs/cpu face1.jpg face2.jpg --out maps
  agegender explain runs/cpu face.jpg --head age_group --class 8-12
  agegender explain runs/voices --count 40 --split validation
  agegender explain runs/ensemble --method attention
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "explain",
        "show where a finished run saw what it predicts",
        "Writes images of where a finished run saw what it predicts: of files, without the run's data, "
        "or of examples evenly spaced over a part of its split; and a sheet of them all. An image is taken for one "
        "face, as it is; where the run learned from detected faces, the largest face in it is shown. A class "
        "activation map shows what raises one number: the logit of the predicted class, or of a given one, or the age "
        "in years. It is as coarse as the network's last map.",
        EXAMPLES,
    )
    add_run(parser)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="PATH",
        help="images or recordings, and folders of them, 100 files at most [examples of the run]",
    )
    parser.add_argument("--out", type=to_path, default=Path("maps"), metavar="DIR", help="folder, new or empty [maps]")
    parser.add_argument(
        "--method",
        choices=("grad_cam", "grad_cam_pp", "layer_cam", "attention"),
        default="layer_cam",
        help="attention: the masks of residual_attention or attention_ensemble, stage by stage [layer_cam]",
    )
    parser.add_argument("--head", metavar="NAME", help="gender, age_group, age or class_name [the run's first]")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="[the predicted one of each example]")
    parser.add_argument("--count", type=at_least(1), metavar="N", help="of the run's examples [16]")
    add_part(parser)
    add_data(parser, "where the run's data lie now, or other data")
    parser.set_defaults(function=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    prepare()
    from agegender_jax.evaluate.explain import export
    from agegender_jax.evaluate.loaded import LoadedModel

    model = LoadedModel.load(arguments.run)
    exported = export(
        model,
        arguments.out,
        [Path(path) for path in walk(arguments.files)],
        method=arguments.method,
        head=arguments.head,
        class_name=arguments.class_name,
        count=arguments.count,
        split=arguments.split,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
    )
    for sentence in exported.skipped:
        print(f"agegender: skipped {printable(sentence)}", file=sys.stderr)
    sizes = ", ".join(f"{height}x{width}" for height, width in exported.map_size)
    sheet = arguments.out / "sheet.png"
    print(f"{arguments.out}: {exported.count} image{'s' * (exported.count > 1)}; all of them in {sheet}.")
    print(f"The maps are {sizes}: enlarged, they show no more than that.")
    if exported.synthetic:
        print(f"The examples are {DISCLAIMER}.")
    elif exported.terms:
        shown = "people's voices" if model.kind == "audio" else "people"
        print(f"They show {shown}: share them only as the dataset's terms allow. {exported.terms}")
    return 0
