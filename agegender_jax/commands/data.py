"""`agegender data`: describing a dataset, and making a synthetic one."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from agegender_jax.commands.common import add, at_least, number, prepare, to_path
from agegender_jax.errors import UserError
from agegender_jax.labels import AGE_GROUPS

EXAMPLES = """examples:
  agegender data describe utkface --manual_dir DIR
  agegender data synthesize adience --out datasets/adience
"""

_DESCRIBE_EXAMPLES = r"""examples:
  agegender data describe utkface --manual_dir DIR
  agegender data describe adience --manual_dir DIR --config faces --html faces.html
  agegender data describe adience --age_groups levi_hassner
  agegender data describe voice_age_gender --manual_dir DIR --speaker_pattern '/(s\d+)_' --no_html
"""

_SYNTHESIZE_EXAMPLES = """examples:
  agegender data synthesize utkface --out datasets/utkface --count 600
  agegender data synthesize voice_age_gender --out datasets/voices --count 320 --seed 1
  agegender data synthesize adience --out datasets/adience --fold_files DIR
"""

_PATTERNS = {
    "label_pattern": "regular expression on a class folder's name, groups `gender` and `age`",
    "speaker_pattern": "regular expression on a recording's path: who speaks",
    "recording_pattern": "regular expression on a recording's path: what it is a piece of",
    "csv": "file with columns path, gender, age, speaker instead of the patterns",
}
_DEFAULT_COUNT = 1000
_CONFIGS = {
    "utkface": "utkface_small.py:cpu",
    "adience": "adience_cnn.py:cpu",
    "voice_age_gender": "voice_small.py",
}  # recipes that train on a synthetic dataset on any machine


def add_parser(commands: Any) -> None:
    """Adds `data describe` and `data synthesize`; each sets `function`, which takes the arguments."""
    data = add(
        commands,
        "data",
        "describe a dataset, or make a synthetic one",
        "Describes datasets, and makes synthetic ones where there are none.",
        EXAMPLES,
    )
    actions = data.add_subparsers(dest="action", required=True)
    parser = add(
        actions,
        "describe",
        "list what a dataset contains",
        "Lists what a dataset contains: labels, subjects, folds, identical files, and the splits of it under each "
        "protocol. Prepares it first where that has not been done. Also writes a page with plots and a few examples.",
        _DESCRIBE_EXAMPLES,
    )
    parser.add_argument("dataset", help="utkface, adience or voice_age_gender")
    parser.add_argument("--config", default="", metavar="NAME", help="configuration of its builder [the first]")
    parser.add_argument("--manual_dir", type=to_path, metavar="DIR", help="where the downloaded data lie")
    parser.add_argument(
        "--data_dir",
        type=to_path,
        metavar="DIR",
        help="where prepared data lie [TFDS_DATA_DIR or ~/tensorflow_datasets]",
    )
    for name, text in _PATTERNS.items():
        parser.add_argument(f"--{name}", default="", help=text)
    parser.add_argument(
        "--max_bad", type=number(0, 1), default=0.0, help="largest share of unusable files; 0 is the builder's [0]"
    )
    parser.add_argument("--age_groups", choices=tuple(AGE_GROUPS), help="scheme of age groups [all of them]")
    parser.add_argument("--html", type=to_path, metavar="FILE", help="the page [describe-DATASET.html]")
    parser.add_argument("--no_html", action="store_true", help="write no page")
    parser.set_defaults(function=describe)

    parser = add(
        actions,
        "synthesize",
        "make a synthetic dataset",
        "Makes a synthetic dataset from a seed, in the layout of the original: it tests the pipeline and shows nothing "
        "about people.",
        _SYNTHESIZE_EXAMPLES,
    )
    parser.add_argument("dataset", help="utkface, adience or voice_age_gender")
    parser.add_argument("--out", type=to_path, required=True, metavar="DIR", help="new folder")
    parser.add_argument("--count", type=at_least(1), help=f"about how many examples [{_DEFAULT_COUNT}]")
    parser.add_argument("--seed", type=at_least(0), default=0, help="the same seed makes the same data [0]")
    parser.add_argument(
        "--fold_files", type=to_path, metavar="DIR", help="adience: take labels and subjects from these, all rows"
    )
    parser.set_defaults(function=synthesize)


def describe(arguments: argparse.Namespace) -> int:
    """Runs `data describe`."""
    prepare()
    from agegender_jax.data.source import default_data_dir, locate
    from agegender_jax.describe import reading, render, sections

    target = arguments.html or Path("-".join(filter(None, ("describe", arguments.dataset, arguments.config))) + ".html")
    options: dict[str, Any] = {name: value for name in (*_PATTERNS, "max_bad") if (value := getattr(arguments, name))}
    if options and arguments.manual_dir is None:
        raise UserError(f"--{next(iter(options))} is for preparing a dataset; give its --manual_dir=DIR too.")
    if not arguments.no_html:
        render.check_path(target)  # before minutes of preparing
    prepared = locate(
        arguments.dataset,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir or default_data_dir(),
        config=arguments.config,
        options=options,
    )
    contents = reading.read(prepared)
    described = sections.describe(contents, arguments.age_groups)
    print(render.render_text(sections.title(contents), described))
    if not arguments.no_html:
        render.write_page(target, contents, described, arguments.age_groups)
        terms = "" if prepared.synthetic else " (it contains people's data: observe their terms of use)"
        print(f"\nPage with plots and examples: {target}{terms}")
    return 0


def synthesize(arguments: argparse.Namespace) -> int:
    """Runs `data synthesize`."""
    from agegender_jax.labels import DISCLAIMER
    from agegender_jax.synthetic import generate

    name, out = arguments.dataset, arguments.out
    if arguments.fold_files is None:
        generate.generate(name, out, arguments.count or _DEFAULT_COUNT, seed=arguments.seed)
    elif name != "adience":
        raise UserError(f"--fold_files is for adience, and this is {name}; leave it out.")
    else:
        generate.generate(name, out, arguments.count or 0, seed=arguments.seed, fold_files=arguments.fold_files)
    options, place = generate.builder_options(name), shlex.quote(str(out))
    flags = "".join(f" --{option} {shlex.quote(value)}" for option, value in options.items())
    settings = "".join(f" --config.dataset.{option}={shlex.quote(value)}" for option, value in options.items())
    print(f"{out}: {name} ({DISCLAIMER}).")
    print(f"  describe: agegender data describe {name} --manual_dir {place}{flags}")
    print(
        f"  train:    python launch.py --config configs/{_CONFIGS[name]}{settings} --manual_dir {place} "
        f"--workdir runs/synthetic_{name}"
    )
    return 0
