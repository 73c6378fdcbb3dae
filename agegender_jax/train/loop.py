"""The training loop, top to bottom: set up, go on from the last checkpoint, train, evaluate, save, report."""

import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu.parameter_overview import get_parameter_overview
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.checkpoints import Checkpoints
from agegender_jax.data.order import BatchOrder
from agegender_jax.data.resident import place
from agegender_jax.errors import Diverged, Preempted, UserError
from agegender_jax.evaluate.evaluator import Evaluator
from agegender_jax.evaluate.report import duration, report
from agegender_jax.mesh import by_batch, check_batch, make_mesh, replicated
from agegender_jax.models.model import build_heads, build_model, model_structure, split_model
from agegender_jax.run import Run
from agegender_jax.splits import LEAKY
from agegender_jax.train.experiment import Experiment, set_up
from agegender_jax.train.measurement import constant_figures, goodness, measure_constant, measure_part
from agegender_jax.train.optimizer import check_freeze, frozen_parameters, learning_rate, make_optimizer
from agegender_jax.train.pace import Every, Pace
from agegender_jax.train.pretraining import load_pretrained, with_normalization
from agegender_jax.train.state import initial_state
from agegender_jax.train.step import jit_train_steps
from agegender_jax.train.writers import Progress, Writers
from tfds_builders.prepare import write_failure

_PICTURES_SECONDS = 30.0  # drawing a confusion matrix takes as long as many steps on a fast device


def train(
    recipe: ConfigDict,
    workdir: Path,
    *,
    manual_dir: Path | None = None,
    data_dir: Path,
    progress: bool = True,
    started: float | None = None,
) -> dict[str, Any]:
    """Trains and evaluates a recipe, going on from whatever the directory holds of it.

    Args:
      recipe: from `configs/`.
      workdir: the run's directory.
      manual_dir: where the downloaded dataset lies, or None where it is prepared.
      data_dir: where prepared datasets and caches lie.
      progress: whether to draw progress bars on a terminal.
      started: `time.monotonic()` at the start of the command, to report the time to the first step.

    Returns:
      The run's summary, which `summary.json` holds.

    Raises:
      UserError: bad recipe, data or directory.
      Preempted: SIGTERM; the state is saved.
      Diverged: the loss is not finite.
    """
    started = time.monotonic() if started is None else started
    recipe, mesh = _checked(recipe, workdir)
    run = Run.start(workdir, recipe)
    if summary := run.summary():
        _say(f"{workdir} is complete:\n{report(summary)}")
        return summary
    try:
        with run.locked(), termination() as stop, jax.set_mesh(mesh):
            experiment = set_up(recipe, manual_dir=manual_dir, data_dir=data_dir, run=run, progress=progress)
            _say(experiment.describe())
            # Closed whatever happens: a checkpoint that is being saved is then finished.
            with closing(run.checkpoints()) as checkpoints:
                return _train(run, experiment, mesh, checkpoints, stop, started)
    except UserError:
        raise
    except Exception as error:
        if reason := write_failure(error):
            raise UserError(
                f"{workdir}: cannot be written ({reason}); free some space, and run the same command again: it goes on "
                "from the last checkpoint."
            ) from error
        raise


def _checked(recipe: ConfigDict, workdir: Path | None = None) -> tuple[ConfigDict, jax.sharding.Mesh]:
    """The recipe whole, and the devices, once all is checked that can be without data: what is refused leaves no trace.

    A run that has begun in `workdir` needs its pretrained weights no more.
    """
    recipes.check(recipe)
    recipe = with_normalization(recipe, workdir)
    mesh = make_mesh()
    check_batch(mesh, recipe.train.batch_size)
    heads = build_heads(recipe)
    _, params, stats = model_structure(recipe, heads)
    check_freeze(recipe.optimizer, params)
    goodness(recipe.evaluate.select, constant_figures(heads))
    if recipe.model.pretrained and not (workdir is not None and (workdir / "split.json").exists()):
        load_pretrained(recipe, params, stats)
    return recipe, mesh


def dry_run(recipe: ConfigDict, *, manual_dir: Path | None = None, data_dir: Path, progress: bool = True) -> str:
    """What `train` would do, as text; reads the data and makes the split, and leaves no run behind.

    Raises:
      UserError: as `train`.
    """
    recipe, _ = _checked(recipe)
    experiment = set_up(recipe, manual_dir=manual_dir, data_dir=data_dir, run=None, progress=progress)
    _, params, stats = model_structure(recipe, experiment.heads)
    examples = len(experiment.split.train)
    total, every = schedule(recipe, examples)
    lines = [recipes.to_json(recipe), experiment.describe(), get_parameter_overview(params, include_stats=False)]
    if recipe.model.pretrained:
        origin = load_pretrained(recipe, params, stats, experiment.facts["class_names"])[2]
        lines.append(f"weights  {origin['description']}")
    lines.append(_described(recipe, params, total, examples))
    lines.append(f"on {jax.device_count()} {jax.default_backend()} device(s), evaluated and saved every {every} steps")
    return "\n".join(lines)


def schedule(recipe: ConfigDict, examples: int) -> tuple[int, int]:
    """Steps in all and steps between evaluations, both whole multiples of `steps_per_dispatch`.

    So every dispatch has one shape and is compiled once, and a resumed run cuts its steps where the first one did.
    """
    steps = recipe.train.steps_per_dispatch
    epoch = examples / recipe.train.batch_size / steps  # in dispatches
    total = max(1, round(recipe.train.epochs * epoch))
    return total * steps, max(1, min(total, round(recipe.evaluate.every_epochs * epoch))) * steps


def _train(
    run: Run,
    experiment: Experiment,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    stop: threading.Event,
    started: float,
) -> dict[str, Any]:
    recipe, heads, split, labels = run.recipe, experiment.heads, experiment.split, experiment.labels
    constant_names, constant = measure_constant(experiment)
    total, every = schedule(recipe, len(split.train))
    batch_size, dispatch = recipe.train.batch_size, recipe.train.steps_per_dispatch

    # Shapes first: what is restored, or else initialised, is laid out on the devices from the start.
    everywhere = replicated(mesh)
    optimizer = make_optimizer(recipe.optimizer, total, len(split.train) / batch_size)
    rates = np.asarray(jax.vmap(learning_rate(recipe.optimizer, total))(np.arange(total)))  # to be logged
    graphdef, _, _ = model_structure(recipe, heads)

    def fresh() -> tuple[Any, Any]:
        _, params, stats = split_model(build_model(recipe, heads))
        return params, stats

    begin = partial(initial_state, optimizer=optimizer, average=bool(recipe.train.ema_decay))
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        jax.eval_shape(lambda: begin(*fresh())),
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    restored = checkpoints.restore_newest("training", abstract)
    if restored:
        step, state = restored
        _say(f"Going on from the checkpoint of step {step} of {total}.")
    else:
        params, stats = jax.jit(fresh, out_shardings=everywhere)()
        if recipe.model.pretrained:
            params, stats, origin = load_pretrained(recipe, params, stats, experiment.facts["class_names"])
            run.write("run.json", run.facts() | {"pretrained": origin})
            _say(f"weights  {origin['description']}")
        step, state = 0, jax.jit(begin, out_shardings=everywhere)(params, stats)
        del params, stats

    data = place(experiment.data, labels, everywhere)
    train_steps = jit_train_steps(graphdef, heads, optimizer, recipe, experiment.inputs, mesh)
    evaluator = Evaluator(graphdef, heads, recipe, experiment.inputs, mesh)
    order = BatchOrder(split.train, batch_size, recipe.seed)
    _say(_described(recipe, abstract.params, total, len(split.train)))
    _say("compiling; the first steps follow in seconds, or in minutes where the net is deep")

    with Writers(run.directory, step) as writers:
        if not step:
            writers.text("recipe", "```json\n" + recipes.to_json(recipe) + "\n```")
            writers.text("experiment", "```\n" + experiment.describe() + "\n```")
        bar = Progress(total, step, batch_size)
        pace, album = Pace(), Every(_PICTURES_SECONDS)
        pending: tuple[int, Any] | None = None
        first_step: float | None = None

        def record() -> None:
            """Logs what the last dispatch gave; waits for it to end."""
            nonlocal pending, first_step
            if pending is None:
                return
            (at, values), pending = pending, None
            values = jax.device_get(values)
            seconds = pace.lap()
            _check_finite(values, at, checkpoints)
            if first_step is None:
                first_step = time.monotonic() - started
                bar.line(f"first {dispatch} steps done {first_step:.1f} s after the start")
            pace_now = {"learning_rate": float(rates[at - 1]), "images_per_second": dispatch * batch_size / seconds}
            writers.scalars(at, {f"train/{k}": float(v.mean()) for k, v in values.items()} | pace_now)
            bar.update(at, seconds, dispatch, float(values["loss"].mean()))

        # Do not change the order: evaluate the state, save it, and only then go on.
        # Nothing moves between host and device that is not named here.
        with jax.transfer_guard("disallow"):
            while step < total:
                rows = jax.device_put(order.batches(step, dispatch), by_batch(mesh, axis=1))
                state, values = train_steps(state, data, rows)
                record()  # of the dispatch before: the device already has the next one
                step += dispatch
                pending = (step, values)
                stopping = stop.is_set()
                if step % every and step < total and not stopping:
                    continue
                record()
                figure = None
                if not stopping:  # whoever sent SIGTERM waits for seconds, not for an evaluation
                    validation = measure_part(
                        "validation",
                        evaluator,
                        experiment,
                        state.evaluated,
                        data,
                        pictures=album.due(),
                        at=(writers, step),
                    )
                    figure = goodness(recipe.evaluate.select, validation)
                    bar.line(
                        _progress_line(step, total, batch_size, len(split.train), pace.median, dispatch, validation)
                    )
                writers.flush()
                with jax.transfer_guard("allow"):  # the saver copies in its own way
                    checkpoints.save(step, state, state.evaluated, figure)
                pace.restart()
                if stopping:
                    checkpoints.wait()
                    bar.close()
                    raise Preempted(
                        f"Stopped by SIGTERM; step {step} of {total} is saved in {run.directory}. "
                        "The same command goes on from there."
                    )
        bar.close()
        checkpoints.wait()

        used = checkpoints.best if recipe.evaluate.use == "best" else None
        used = total if used is None else used
        model_state = state.evaluated
        if used != total:
            model_state = checkpoints.restore(used, "model", abstract.evaluated)
        flip = recipe.evaluate.flip
        measured = (evaluator, experiment, model_state, data)
        test = measure_part("test", *measured, flip=flip, pictures=True, at=(writers, total))
        summary = {
            "run": run.name,
            "dataset": recipe.dataset.name,
            "drawn": experiment.prepared.drawn,
            "protocol": split.protocol,
            "train_examples": len(split.train),
            "leaky": split.protocol in LEAKY or bool(split.report["groups_in_several_parts"]),
            "subjects": experiment.facts["subjects"],
            "data_sha256": experiment.facts["data_sha256"],
            "age_groups": recipe.age_groups,
            "split_sha256": split.sha256,
            "flip_averaged": flip,
            "test": test,
            "validation": measure_part("validation", *measured, flip=flip),
            "constant": constant,
            "constant_names": constant_names,
            "parameters": parameters,
            "steps": total,
            "evaluated_step": used,
            "epochs": total * batch_size / len(split.train),
            "seconds": writers.seconds,
            "images_per_second": batch_size * dispatch / pace.median if pace.median else None,
            "first_step_seconds": first_step,
            "peak_memory_bytes": _peak_memory(),
            "versions": experiment.facts["versions"],
            "hardware": experiment.facts["hardware"],
        }
    run.write("summary.json", summary)
    _say(report(summary))
    return summary


def _described(recipe: ConfigDict, params: Any, total: int, examples: int) -> str:
    """The model and its training in a line."""
    name = " ".join(filter(None, (recipe.model.backbone, recipe.model.variant)))
    count, options = sum(leaf.size for leaf in jax.tree.leaves(params)), recipe.optimizer
    until = f" until epoch {options.unfreeze_epoch:g}" if options.unfreeze_epoch else ""
    frozen = f", {frozen_parameters(options, params):,} of them frozen{until}" if options.freeze else ""
    steps = f"{total} steps of {recipe.train.batch_size} ({_epochs(recipe, total, examples)})"
    return f"model    {name}, {count:,} parameters{frozen}; {steps}"


def _epochs(recipe: ConfigDict, total: int, examples: int) -> str:
    """How many epochs a run has; where whole dispatches make it many more or fewer than was asked for, why."""
    epochs, asked = total * recipe.train.batch_size / examples, recipe.train.epochs
    text = f"{epochs:.1f} epochs"
    if abs(epochs - asked) > 0.25 * asked:
        text += (
            f", not {asked:g}: steps come in blocks of {recipe.train.steps_per_dispatch}; "
            "--config.train.steps_per_dispatch=1 comes closest"
        )
    return text


def _peak_memory() -> int:
    """Bytes, of this start of the run."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _progress_line(
    step: int,
    total: int,
    batch_size: int,
    examples: int,
    pace: float | None,
    dispatch: int,
    validation: dict[str, float],
) -> str:
    shown = [key for key in validation if key.endswith(("accuracy", "mae")) and "balanced" not in key]
    text = "  ".join(f"{key} {validation[key]:.3f}" for key in shown)
    line = f"step {step}/{total}  epoch {step * batch_size / examples:.1f}  validation: {text}"
    if pace:
        line += f"  {dispatch * batch_size / pace:.0f} images/s  {duration((total - step) / dispatch * pace)} left"
    return line


def _check_finite(values: dict[str, np.ndarray], at: int, checkpoints: Checkpoints) -> None:
    # The gradient too: a loss is of the parameters before its step, and these are saved after it.
    losses = values["loss"]
    bad = np.flatnonzero(~np.isfinite(losses) | ~np.isfinite(values["gradient_norm"]))
    if len(bad):
        checkpoints.wait()
        good = checkpoints.steps
        raise Diverged(
            f"The loss of step {at - len(losses) + int(bad[0]) + 1} is {losses[bad[0]]}, the norm of its gradient "
            f"{values['gradient_norm'][bad[0]]}; "
            + (f"the last good checkpoint is that of step {good[-1]}. " if good else "there is no checkpoint yet. ")
            + "Lower config.optimizer.learning_rate or set config.optimizer.clip_norm, in a new --workdir."
        )


@contextmanager
def termination() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, and those around it. JAX's own notice reaches only multi-process runs."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be installed
        yield stop
        return

    def note(number: int, frame: Any) -> None:
        stop.set()
        if callable(before):  # of a study, which then begins no other run
            before(number, frame)
        else:
            _say("SIGTERM: stopping once what is running is saved.")

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        with suppress(TypeError):
            signal.signal(signal.SIGTERM, before)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
