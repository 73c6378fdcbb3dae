"""The training loop, top to bottom: set up, go on from the last checkpoint, train, evaluate, save, report."""

import resource
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu.parameter_overview import get_parameter_overview
from ml_collections import ConfigDict

from agegender_jax import distributed
from agegender_jax import recipe as recipes
from agegender_jax.checkpoints import Checkpoints
from agegender_jax.data.loader import make_loader, shapes
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.distributed import all_or_none, is_primary, log_primary, primary_first
from agegender_jax.errors import Diverged, Preempted, UserError
from agegender_jax.evaluate.evaluator import Evaluator
from agegender_jax.evaluate.predictions import KEPT_PARTS, write_predictions
from agegender_jax.evaluate.predictions import NAME as PREDICTIONS
from agegender_jax.evaluate.report import summary_text
from agegender_jax.evaluate.uncertainty import of_predictions
from agegender_jax.mesh import check_batch, make_mesh
from agegender_jax.models.heads import metrics_table
from agegender_jax.models.model import build_heads, model_structure
from agegender_jax.run import REPORT, Run
from agegender_jax.splits import is_leaky
from agegender_jax.train.experiment import Experiment, build_setup
from agegender_jax.train.log_messages import memory_message, model_message, progress_message
from agegender_jax.train.measurement import (
    evaluate_baseline,
    evaluate_part,
    kept_predictions,
    metrics_of,
    selection_metric,
    selection_score,
)
from agegender_jax.train.optimizer import check_freeze, learning_rate, make_optimizer
from agegender_jax.train.preemption import preemption
from agegender_jax.train.pretraining import load_pretrained, with_normalization
from agegender_jax.train.program import compile_steps
from agegender_jax.train.start import abstract_state, check_same, first_state
from agegender_jax.train.step import check_parts, jit_train_steps
from agegender_jax.train.throughput import RateLimiter, ThroughputMeter, TimeBreakdown
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
    trace: Path | None = None,
    dispatches: int | None = None,
) -> dict[str, Any]:
    """Trains and evaluates a recipe, going on from whatever the directory holds of it.

    Args:
      recipe: from `configs/`.
      workdir: the run's directory.
      manual_dir: where the downloaded dataset lies, or None where it is prepared.
      data_dir: where prepared datasets and caches lie.
      progress: whether to draw progress bars on a terminal.
      started: `time.monotonic()` at the start of the command, to report the time to the first step.
      trace: folder for the profiler's trace of all that follows the first dispatch, or None.
      dispatches: end after so many, before the recipe does.

    Returns:
      The run's summary, which `summary.json` holds.

    Raises:
      UserError: bad recipe, data or directory.
      Preempted: SIGTERM; the state is saved.
      Diverged: the loss is not finite.
    """
    started = time.monotonic() if started is None else started
    with all_or_none():
        recipe, mesh = _checked(recipe, workdir)
    try:
        with ExitStack() as stack:
            with primary_first():
                run = _start(workdir, recipe)
                summary = run.summary()
                if is_primary() and summary is None:
                    stack.enter_context(run.locked())
            if summary:
                log_primary(f"{workdir} is complete:\n{summary_text(summary)}")
                if not (run.directory / REPORT).exists():
                    _write_report(run)
                return summary
            stop = stack.enter_context(preemption())
            stack.enter_context(jax.set_mesh(mesh))
            with primary_first():
                shown = progress and is_primary()
                experiment = build_setup(recipe, manual_dir=manual_dir, data_dir=data_dir, run=run, progress=shown)
                check_same(experiment)
            log_primary(experiment.describe())
            # Closed whatever happens: a checkpoint that is being saved is then finished.
            with closing(run.checkpoints()) as checkpoints:
                summary = _train(run, experiment, mesh, checkpoints, stop, started, trace, dispatches)
            _write_report(run, progress)
            return summary
    except UserError:
        raise
    except Exception as error:
        if reason := write_failure(error):
            raise UserError(
                f"{workdir}: cannot be written ({reason}); free some space, and run the same command again: it goes on "
                "from the last checkpoint."
            ) from error
        raise


def _write_report(run: Run, progress: bool = False) -> None:
    """Writes the page, where the recipe has one; a run is complete without it, so what goes wrong is only said."""
    if not is_primary() or not run.recipe.evaluate.report:
        return
    from agegender_jax.report.write import write_report  # plots, at the end alone

    try:
        log_primary(f"{write_report(run, progress=progress)}: the report")
    except UserError as error:
        log_primary(f"There is no report: {error}")


def _start(workdir: Path, recipe: ConfigDict) -> Run:
    """The run, which the primary process begins and the others find."""
    if not is_primary() and not (workdir / "recipe.json").exists():
        raise UserError(
            f"Process {jax.process_index()} does not see {workdir}, which process 0 began; choose a --workdir in a "
            "folder that all processes share."
        )
    return Run.start(workdir, recipe)


def _checked(recipe: ConfigDict, workdir: Path | None = None) -> tuple[ConfigDict, jax.sharding.Mesh]:
    """The recipe whole, and the devices, once all is checked that can be without data: what is refused leaves no trace.

    A run that has begun in `workdir` needs its pretrained weights no more.
    """
    recipes.check(recipe)
    recipe = with_normalization(recipe, workdir)
    mesh = make_mesh(recipe.compute.model)
    check_batch(mesh, recipe.train.batch_size)
    check_parts(recipe, mesh.shape["data"])
    heads = build_heads(recipe)
    _, params, stats = model_structure(recipe, heads)
    check_freeze(recipe.optimizer, params)
    selection_metric(recipe.evaluate.select, heads)
    if recipe.model.pretrained and not (workdir is not None and (workdir / "split.json").exists()):
        load_pretrained(recipe, params, stats)
    return recipe, mesh


def dry_run(recipe: ConfigDict, *, manual_dir: Path | None = None, data_dir: Path, progress: bool = True) -> str:
    """What `train` would do, as text; reads the data and makes the split, and leaves no run behind.

    Raises:
      UserError: as `train`.
    """
    with all_or_none():
        recipe, mesh = _checked(recipe)
    with primary_first():
        shown = progress and is_primary()
        experiment = build_setup(recipe, manual_dir=manual_dir, data_dir=data_dir, run=None, progress=shown)
        check_same(experiment)
    _, params, stats = model_structure(recipe, experiment.heads)
    examples = len(experiment.split.train)
    total, every = schedule(recipe, examples)
    lines = [recipes.to_json(recipe), experiment.describe(), get_parameter_overview(params, include_stats=False)]
    if recipe.model.pretrained:
        origin = load_pretrained(recipe, params, stats, experiment.metadata["class_names"])[2]
        lines.append(f"weights  {origin['description']}")
    lines.append(model_message(recipe, params, total, examples))
    optimizer = make_optimizer(recipe.optimizer, total, examples / recipe.train.batch_size)
    lines.append(memory_message(abstract_state(recipe, experiment.heads, optimizer, mesh)))
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
    stop: threading.Event | distributed.PreemptionNotice,
    started: float,
    trace: Path | None,
    dispatches: int | None,
) -> dict[str, Any]:
    spent = TimeBreakdown()
    recipe, heads, split, labels = run.recipe, experiment.heads, experiment.split, experiment.labels
    constant = evaluate_baseline(experiment)
    total, every = schedule(recipe, len(split.train))
    if dispatches is not None:
        total = min(total, dispatches * recipe.train.steps_per_dispatch)
    batch_size, dispatch = recipe.train.batch_size, recipe.train.steps_per_dispatch

    optimizer = make_optimizer(recipe.optimizer, total, len(split.train) / batch_size)
    rates = np.asarray(jax.vmap(learning_rate(recipe.optimizer, total))(np.arange(total)))  # to be logged
    graphdef, _, _ = model_structure(recipe, heads)
    # Shapes first: what is restored, or else initialised, is laid out on the devices from the start.
    abstract = abstract_state(recipe, heads, optimizer, mesh)
    log_primary(model_message(recipe, abstract.params, total, len(split.train)))
    log_primary(memory_message(abstract))
    log_primary("         compiling: seconds, or minutes where the net is deep")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    expected = shapes(experiment.data, experiment.inputs, labels, mesh, batch_size, dispatch)
    with spent.on("compilation"), all_or_none():  # the limit is each host's own
        train_steps = jit_train_steps(graphdef, heads, optimizer, recipe, experiment.inputs, mesh, shardings)
        program, memory = compile_steps(train_steps, abstract, *expected)
    log_primary(memory)

    with spent.on("input"), primary_first():
        experiment = experiment.begin(run if is_primary() else None)
    step, state = first_state(run, experiment, optimizer, abstract, checkpoints)
    if step:
        log_primary(f"Going on from the checkpoint of step {step} of {total}.")
    evaluator = Evaluator(graphdef, heads, recipe, experiment.inputs, mesh)
    with spent.on("input"):
        feed = make_loader(experiment.data, mesh, labels, BatchSampler(split.train, batch_size, recipe.seed), total)

    # SIGTERM came in place of that evaluation, or the figure of the checkpoint was damaged.
    missed = bool(step) and (step % every == 0 or step == total) and not checkpoints.evaluated(step)

    with closing(feed), Writers(run.directory if is_primary() else None, step, evaluated=not missed) as writers:
        if not step:
            writers.text("recipe", "```json\n" + recipes.to_json(recipe) + "\n```")
            writers.text("experiment", "```\n" + experiment.describe() + "\n```")
        bar = Progress(total, step, batch_size, shown=is_primary())
        pace, album = ThroughputMeter(), RateLimiter(_PICTURES_SECONDS)
        pending: tuple[int, Any] | None = None
        first_step: float | None = None
        begun = step

        def record() -> None:
            """Logs what the last dispatch gave; waits for it to end."""
            nonlocal pending, first_step
            if pending is None:
                return
            (at, values), pending = pending, None
            with spent.on("step"):
                values = jax.device_get(values)
            seconds = pace.lap()
            _check_finite(values, at, checkpoints)
            if first_step is None:
                first_step = time.monotonic() - started
                bar.line(f"first {dispatch} steps done {first_step:.1f} s after the start")
            pace_now = {"learning_rate": float(rates[at - 1]), "images_per_second": dispatch * batch_size / seconds}
            writers.scalars(at, {f"train/{k}": float(v.mean()) for k, v in values.items()} | pace_now)
            bar.update(at, seconds, dispatch, float(values["loss"].mean()))

        def evaluate() -> float:
            """Logs what the state scores on the validation part, and returns what checkpoints are chosen by."""
            with spent.on("evaluation"):
                pictures = is_primary() and album.due()
                found = evaluate_part(
                    "validation", evaluator, experiment, state.evaluated, feed, pictures=pictures, at=(writers, step)
                )
            if dispatches is None:  # what is cut short has learned nothing
                bar.line(
                    progress_message(
                        step, total, batch_size, len(split.train), pace.median, dispatch, found, experiment.heads
                    )
                )
            return selection_score(recipe.evaluate.select, experiment.heads, found)

        # Do not change the order: evaluate the state, save it, and only then go on.
        # Nothing moves between host and device that is not named here.
        with jax.transfer_guard("disallow"), ExitStack() as tracing:
            figure: float | None
            if missed:
                figure = evaluate()
                writers.flush()
                checkpoints.rate(step, figure)
                pace.restart()
            while step < total:
                if trace is not None and step > begun:  # the first dispatch is no example of the others
                    record()
                    tracing.enter_context(jax.profiler.trace(trace, create_perfetto_trace=True))
                    trace = None
                with spent.on("input"):
                    batches = feed.batches(step, dispatch)
                with spent.on("step"):
                    state, values = program(state, feed.data, batches)
                record()  # of the dispatch before: the device already has the next one
                step += dispatch
                pending = (step, values)
                stopping = stop.is_set()
                if step % every and step < total and not stopping:
                    continue
                record()
                figure = None if stopping else evaluate()  # whoever sent SIGTERM waits for seconds
                writers.flush()
                with spent.on("checkpoint"), jax.transfer_guard("allow"):  # the saver copies in its own way
                    checkpoints.save(step, state, state.evaluated, figure)
                pace.restart()
                if stopping:
                    checkpoints.wait()
                    bar.close()
                    raise Preempted(
                        f"Stopped by SIGTERM; step {step} of {total} is saved in {run.directory}. "
                        "The same command goes on from there."
                    )
            with spent.on("checkpoint"), jax.transfer_guard("allow"):
                checkpoints.wait()
            seconds_of = spent.seconds  # without the time that writing the trace takes
        bar.close()

        used = checkpoints.best if recipe.evaluate.use == "best" else None
        used = total if used is None else used
        model_state = state.evaluated
        if used != total:
            model_state = checkpoints.restore(used, "model", abstract.evaluated)
        flip = recipe.evaluate.flip
        found = {
            part: evaluator.distributions(model_state, feed, getattr(split, part), flip=flip) for part in KEPT_PARTS
        }
        predictions = kept_predictions(run, experiment, found, used)
        test = metrics_of("test", found["test"], experiment, pictures=is_primary(), at=(writers, total))
        summary = {
            "run": run.name,
            "dataset": recipe.dataset.name,
            "synthetic": experiment.prepared.synthetic,
            "protocol": split.protocol,
            "train_examples": len(split.train),
            "leaky": is_leaky(split),
            "subjects": experiment.metadata["subjects"],
            "data_sha256": experiment.metadata["data_sha256"],
            "age_groups": recipe.age_groups,
            "split_sha256": split.sha256,
            "flip_averaged": flip,
            "test": test,
            "validation": metrics_of("validation", found["validation"], experiment),
            "metrics": metrics_table(experiment.heads),
            "intervals": {"test": of_predictions(predictions.of("test")) if is_primary() else {}},
            **constant,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(abstract.params)),
            "steps": total,
            "evaluated_step": used,
            "epochs": total * batch_size / len(split.train),
            "seconds": writers.seconds,
            "seconds_of": seconds_of,
            "images_per_second": batch_size * dispatch / pace.median if pace.median else None,
            "first_step_seconds": first_step,
            "peak_memory_bytes": _peak_memory(),
            "versions": experiment.metadata["versions"],
            "hardware": experiment.metadata["hardware"],
        }
    with all_or_none():
        if is_primary():
            write_predictions(run.directory / PREDICTIONS, predictions)
            run.write("summary.json", summary)
    if dispatches is None:
        log_primary(summary_text(summary))
    return summary


def _peak_memory() -> int:
    """Bytes, of this start of the run."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
