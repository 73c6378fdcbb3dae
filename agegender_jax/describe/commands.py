"""`agegender data`: describing a dataset, and drawing one. Imports nothing heavy until a command runs."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from agegender_jax.errors import UserError, quiet_libraries
from agegender_jax.labels import AGE_GROUPS

EXAMPLES = """examples:
  agegender data describe utkface --manual_dir DIR
  agegender data synthesize adience --out drawn/adience
"""

_DESCRIBE_EXAMPLES = r"""examples:
  agegender data describe utkface --manual_dir DIR
  agegender data describe adience --manual_dir DIR --config faces --html faces.html
  agegender data describe adience --age_groups levi_hassner
  agegender data describe voice_age_gender --manual_dir DIR --speaker_pattern '/(s\d+)_' --no_html
"""

_DRAW_EXAMPLES = """examples:
  agegender data synthesize utkface --out drawn/utkface --count 600
  agegender data synthesize voice_age_gender --out drawn/voices --count 320 --seed 1
  agegender data synthesize adience --out drawn/adience --fold_files DIR
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
}  # recipes that train on a drawn dataset on any machine


def add_parsers(commands: Any) -> None:
    """Adds `data describe` and `data synthesize`; each sets `function`: arguments to exit code.

    Args:
      commands: what `ArgumentParser.add_subparsers` returned.
    """
    form = argparse.RawDescriptionHelpFormatter
    data = commands.add_parser(
        "data",
        help="describe or draw a dataset",
        description="Describes datasets, and draws them where there are none.",
        epilog=EXAMPLES,
        formatter_class=form,
    )
    actions = data.add_subparsers(dest="action", required=True)
    parser = actions.add_parser(
        "describe",
        help="say what a dataset holds",
        description="Says what a dataset holds: labels, people, folds, identical files, and what a split of it would "
        "be. Prepares it first where that has not been done. Also writes a page with plots and a few examples.",
        epilog=_DESCRIBE_EXAMPLES,
        formatter_class=form,
    )
    parser.add_argument("dataset", help="utkface, adience or voice_age_gender")
    parser.add_argument("--config", default="", metavar="NAME", help="configuration of its builder [the first]")
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help="where the downloaded data lie")
    parser.add_argument(
        "--data_dir", type=Path, metavar="DIR", help="where prepared data lie [TFDS_DATA_DIR or ~/tensorflow_datasets]"
    )
    for name, text in _PATTERNS.items():
        parser.add_argument(f"--{name}", default="", help=text)
    parser.add_argument("--max_bad", type=_share, default=0.0, help="largest share of unusable files [the builder's]")
    parser.add_argument("--age_groups", choices=tuple(AGE_GROUPS), help="scheme of age groups [all of them]")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the page [describe-DATASET.html]")
    parser.add_argument("--no_html", action="store_true", help="write no page")
    parser.set_defaults(function=describe)

    parser = actions.add_parser(
        "draw",
        help="draw a dataset",
        description="Draws a dataset from a seed, in the layout of the original: it proves the pipeline and says "
        "nothing about people.",
        epilog=_DRAW_EXAMPLES,
        formatter_class=form,
    )
    parser.add_argument("dataset", help="utkface, adience or voice_age_gender")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to be made")
    parser.add_argument("--count", type=_count, help=f"about how many examples [{_DEFAULT_COUNT}]")
    parser.add_argument("--seed", type=_seed, default=0, help="the same seed draws the same [0]")
    parser.add_argument(
        "--fold_files", type=Path, metavar="DIR", help="adience: take labels and people from these; draws all rows"
    )
    parser.set_defaults(function=draw)


def describe(arguments: argparse.Namespace) -> int:
    """Runs `data describe`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from agegender_jax.data.source import default_data_dir, locate
    from agegender_jax.describe import page, reading, sections, text

    quiet_libraries()
    target = arguments.html or Path("-".join(filter(None, ("describe", arguments.dataset, arguments.config))) + ".html")
    options: dict[str, Any] = {name: value for name in (*_PATTERNS, "max_bad") if (value := getattr(arguments, name))}
    if options and arguments.manual_dir is None:
        raise UserError(f"--{next(iter(options))} is for preparing a dataset; give its --manual_dir=DIR too.")
    if not arguments.no_html:
        page.check_path(target)  # before minutes of preparing
    prepared = locate(
        arguments.dataset,
        manual_dir=arguments.manual_dir.expanduser() if arguments.manual_dir else None,
        data_dir=(arguments.data_dir or default_data_dir()).expanduser(),
        config=arguments.config,
        options=options,
    )
    contents = reading.read(prepared)
    found = sections.describe(contents, arguments.age_groups)
    print(text.render(sections.title(contents), found))
    if not arguments.no_html:
        page.write_page(target, contents, found, arguments.age_groups)
        print(f"\nPage with plots and examples: {target} (it holds people's data: mind the terms)")
    return 0


def draw(arguments: argparse.Namespace) -> int:
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
        f"--workdir runs/drawn_{name}"
    )
    return 0


def _count(text: str) -> int:
    return _whole(text, 1)


def _seed(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to 1")
    return share
