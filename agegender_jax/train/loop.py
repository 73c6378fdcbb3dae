"""Training, top to bottom: compile, decode, initialise or restore, loop, evaluate, write."""

import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from agegender_jax import distributed
from agegender_jax import recipe as recipes
from agegender_jax.data.dataset import ResidentDataset
from agegender_jax.data.loader import DeviceLoader
from agegender_jax.distributed import all_or_none, from_primary, is_primary, log_primary, primary_first
from agegender_jax.errors import Preempted, UserError
from agegender_jax.evaluate.predictions import KEPT_PARTS, write_predictions
from agegender_jax.evaluate.predictions import NAME as PREDICTIONS
from agegender_jax.evaluate.summary_text import summary_text
from agegender_jax.evaluate.targets import target_heads
from agegender_jax.evaluate.uncertainty import of_predictions
from agegender_jax.models.heads import metrics_metadata
from agegender_jax.run import REPORT, Run
from agegender_jax.splits import is_leaky
from agegender_jax.summary import Summary
from agegender_jax.train.description import describe_data, describe_model
from agegender_jax.train.evaluation import evaluate_baseline, evaluate_part, kept_predictions, measure_part
from agegender_jax.train.logging import TimeBreakdown, TrainingLog, Writers
from agegender_jax.train.setup import Setup, build_setup, check_recipe
from agegender_jax.train.state import TrainState, init_or_restore
from agegender_jax.train.step import compile_steps, jit_train_steps
from tfds_builders.prepare import write_failure

Stop = threading.Event | distributed.PreemptionNotice


def train_recipe(
    recipe: ConfigDict,
    workdir: Path,
    *,
    manual_dir: Path | None = None,
    data_dir: Path,
    progress: bool = True,
    started: float | None = None,
    trace: Path | None = None,
    dispatches: int | None = None,
) -> Summary:
    """Trains and evaluates a recipe, resuming whatever the directory holds of it.

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
    progress = progress and is_primary()
    if from_primary((workdir / "summary.json").exists()):
        with all_or_none():
            _check_shared(workdir)
            complete = Run.find(workdir, check_recipe(recipe, workdir))
            assert complete is not None
        return _complete_summary(complete)
    try:
        with preemption() as stop:
            setup = build_setup(
                recipe,
                manual_dir=manual_dir,
                data_dir=data_dir,
                workdir=workdir,
                progress=progress,
                dispatches=dispatches,
            )
            with ExitStack() as stack:
                with primary_first():
                    run = Run(workdir, recipes.from_json(setup.recipe_json))
                    if is_primary():
                        stack.enter_context(run.locked())  # first: it may be the recipe of another process's run
                        Run.start(workdir, run.recipe)
                    _check_shared(workdir)
                log_primary(describe_data(setup))
                short = dispatches is not None
                summary = train(setup, run, stop, started=started, trace=trace, cut_short=short, progress=progress)
                _write_report(run, progress)
                return summary
    except UserError:
        raise
    except Exception as error:
        if reason := write_failure(error):
            raise UserError(
                f"{workdir}: cannot be written ({reason}); free some space, and run the same command again to resume "
                "from the last checkpoint."
            ) from error
        raise


def train(
    setup: Setup,
    run: Run,
    stop: Stop,
    *,
    started: float,
    trace: Path | None = None,
    cut_short: bool = False,
    progress: bool = False,
) -> Summary:
    """Trains and evaluates a run, from its last checkpoint where there is one.

    Args:
      setup: from `build_setup`.
      run: where everything is written.
      stop: whether to save and stop.
      started: `time.monotonic()` at the start of the command.
      trace: folder for the profiler's trace of all that follows the first dispatch, or None.
      cut_short: whether the run is too short to have learned anything, so that its metrics are not printed.
      progress: whether to show a progress bar of decoding on a terminal.

    Returns:
      The run's summary, which `summary.json` holds.

    Raises:
      UserError: a step does not fit into memory, an example cannot be decoded, or nothing can be written.
      Preempted: `stop` was set; the state is saved.
      Diverged: the loss is not finite.
    """
    options, counts, split = setup.options, setup.step_counts, setup.split
    total, every, dispatch = counts.total, counts.every, counts.dispatch
    spent = TimeBreakdown()
    with ExitStack() as stack:
        stack.enter_context(jax.set_mesh(setup.mesh))
        # Closed whatever happens: a checkpoint that is being saved is then finished.
        checkpoints = stack.enter_context(closing(run.checkpoints()))
        baseline = evaluate_baseline(setup)

        # Compile, from shapes alone: a step that does not fit is refused before anything is decoded.
        log_primary(describe_model(setup))
        log_primary("Compiling the training step; this takes minutes for a deep network.")
        with spent.on("compilation"), all_or_none():  # the limit is each host's own
            program, memory = compile_steps(_jit_steps(setup), setup.state, *setup.batch_shapes())
        log_primary(memory)

        # Decode what will be resident, the first time only; then the run has begun.
        with spent.on("input"), primary_first():
            dataset = setup.dataset
            decoded = dataset.decode_all(progress=progress) if isinstance(dataset, ResidentDataset) else None
            if is_primary():
                _write_beginning(setup, run)

        # Initialise, or restore the newest checkpoint.
        load_pretrained = partial(_load_pretrained, setup, run) if setup.weights else None
        step, state = init_or_restore(setup.model, setup.optimizer, setup.state, checkpoints, load_pretrained)
        if step:
            log_primary(f"Resuming from step {step:,} of {total:,}.")
        with spent.on("input"):
            loader = stack.enter_context(closing(setup.make_loader(decoded)))

        # SIGTERM came in place of that evaluation, or the metrics of the checkpoint were damaged.
        missed = bool(step) and (step % every == 0 or step == total) and not checkpoints.evaluated(step)
        writers = stack.enter_context(Writers(run.directory if is_primary() else None, step, evaluated=not missed))
        if not step:
            writers.text("recipe", "```json\n" + setup.recipe_json + "\n```")
            writers.text("experiment", "```\n" + describe_data(setup) + "\n```")
        log = TrainingLog(setup, writers, checkpoints, spent, step=step, started=started, cut_short=cut_short)

        # Do not change the order: evaluate the state, save it, and only then go on.
        # Nothing moves between host and device that is not named here.
        with jax.transfer_guard("disallow"), ExitStack() as tracing:
            if missed:
                missed_score = _validate(setup, state, loader, log, step)
                writers.flush()
                checkpoints.rate(step, missed_score)
                log.restart()
            first = step
            while step < total:
                if trace is not None and step > first:  # the first dispatch is not typical of the others
                    log.collect()
                    tracing.enter_context(jax.profiler.trace(trace, create_perfetto_trace=True))
                    trace = None
                with spent.on("input"):
                    batches = loader.train_batches(step, dispatch)
                with spent.on("step"):
                    state, metrics = program(state, loader.data, batches)
                step += dispatch
                log.begin_dispatch(step, metrics)
                stopping = stop.is_set()
                if step % every and step < total and not stopping:
                    continue
                log.collect()
                # Whoever sent SIGTERM waits for seconds alone.
                score = None if stopping else _validate(setup, state, loader, log, step)
                writers.flush()
                with spent.on("checkpoint"), jax.transfer_guard("allow"):  # the saver copies in its own way
                    checkpoints.save(step, state.to_items(), score)
                log.restart()
                if stopping:
                    checkpoints.wait()
                    log.close()
                    raise Preempted(
                        f"Stopped by SIGTERM; step {step} of {total} is saved in {run.directory}. "
                        "The same command resumes from there."
                    )
            with spent.on("checkpoint"), jax.transfer_guard("allow"):
                checkpoints.wait()
            seconds_of = spent.seconds  # without the time that writing the trace takes
        log.close()

        # Evaluate the last checkpoint, or the best one, on validation and test.
        best = checkpoints.best if options.use_best else None
        evaluated_step = total if best is None else best
        model_state = state.evaluated
        if evaluated_step != total:
            model_state = checkpoints.restore(evaluated_step, {"model": setup.state.evaluated})["model"]
        distributions = {
            part: setup.evaluator.distributions(
                model_state, loader, getattr(split, part), flip_average=options.flip_average
            )
            for part in KEPT_PARTS
        }
        predictions = kept_predictions(run, setup, distributions, evaluated_step)
        summary = Summary(
            run=run.name,
            dataset=setup.dataset_name,
            synthetic=setup.synthetic,
            protocol=split.protocol,
            leaky=is_leaky(split),
            train_examples=len(split.train),
            subjects=setup.metadata["subjects"],
            data_sha256=setup.metadata["data_sha256"],
            split_sha256=split.sha256,
            age_groups=setup.age_groups,
            flip_average=options.flip_average,
            test=measure_part(
                "test", distributions["test"], setup, loader if is_primary() else None, at=(writers, total)
            ),
            validation=measure_part("validation", distributions["validation"], setup),
            metrics=metrics_metadata(target_heads(setup.heads)),
            intervals={"test": of_predictions(predictions.of("test")) if is_primary() else {}},
            **baseline,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(setup.model.params)),
            steps=total,
            evaluated_step=evaluated_step,
            epochs=total / counts.steps_per_epoch,
            seconds=writers.seconds,
            seconds_of=seconds_of,
            images_per_second=log.images_per_second,
            first_step_seconds=log.first_step_seconds,
            peak_memory_bytes=_peak_memory(),
            versions=setup.metadata["versions"],
            hardware=setup.metadata["hardware"],
        )
    with all_or_none():
        if is_primary():
            write_predictions(run.directory / PREDICTIONS, predictions)
            run.write("summary.json", summary.to_dict())
    if not cut_short:
        log_primary(summary_text(summary.to_dict()))
    return summary


def _complete_summary(run: Run) -> Summary:
    """Returns the summary of a complete run, and writes its report where that is missing."""
    values = run.summary()
    assert values is not None
    try:
        summary = Summary.from_dict(values)
    except ValueError as error:
        raise UserError(
            f"{run.directory / 'summary.json'} is damaged or of another version ({error}); restore the file, or choose "
            "another --workdir."
        ) from error
    log_primary(f"{run.directory} is complete:\n{summary_text(values)}")
    if not (run.directory / REPORT).exists():
        _write_report(run)
    return summary


def _validate(setup: Setup, state: TrainState, loader: DeviceLoader, log: TrainingLog, step: int) -> float:
    """Evaluates the validation part, logs it, and returns what checkpoints are chosen by."""
    with log.spent.on("evaluation"):
        at = (log.writers, step)
        metrics = evaluate_part("validation", setup, state.evaluated, loader, images=log.images_due(), at=at)
    log.validation(step, metrics)
    value = metrics[setup.options.select]
    return value if setup.selection.higher_is_better else -value


def _jit_steps(setup: Setup) -> jax.stages.Wrapped:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, setup.state)
    return jit_train_steps(
        setup.model.graphdef, setup.heads, setup.optimizer, setup.options, setup.preprocessor, setup.mesh, shardings
    )


def _check_shared(workdir: Path) -> None:
    """Checks that this process sees the run that the primary process created."""
    if not is_primary() and not (workdir / "recipe.json").exists():
        raise UserError(
            f"Process {jax.process_index()} does not see {workdir}, which process 0 created; choose a --workdir in a "
            "folder that all processes share."
        )


def _write_beginning(setup: Setup, run: Run) -> None:
    """Writes of a new run what it will have seen (`seen_*.txt`), `run.json` and `split.json`; the recipe is there."""
    if (run.directory / "split.json").exists():
        return
    parent = setup.weights.run if setup.weights else None
    run.write_seen(setup.dataset_name, setup.dataset.columns, setup.split, parent)
    run.write("run.json", dict(setup.metadata))
    setup.split.save(run.directory / "split.json")  # last: where it is, the others are


def _load_pretrained(setup: Setup, run: Run, params: Any, stats: Any) -> tuple[Any, Any]:
    """Loads the pretrained weights into a fresh model, and records their origin in `run.json`."""
    assert setup.weights is not None
    with all_or_none():
        params, stats, origin = setup.weights.load(params, stats)
    if is_primary():
        run.write("run.json", run.metadata() | {"pretrained": origin})
    log_primary(f"Pretrained weights: {origin['description']}")
    return params, stats


def _peak_memory() -> int:
    """Returns the bytes of this start of the run."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _write_report(run: Run, progress: bool = False) -> None:
    """Writes the report, where the recipe asks for one; a run is complete without it, so a failure is a warning."""
    if not is_primary() or not run.recipe.evaluate.report:
        return
    try:
        from agegender_jax.report.write import write_report  # plots, at the end alone

        log_primary(f"Report: {write_report(run, progress=progress)}")
    except Exception as error:  # a defect, too, must end neither the run nor a sweep
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        log_primary(f"Warning: the report could not be written ({kind}{error}); try agegender report {run.directory}.")


@contextmanager
def preemption() -> Iterator[threading.Event | distributed.PreemptionNotice]:
    """Yields an event that SIGTERM sets; with several processes, JAX's notice that one of them received it."""
    if distributed.is_multiprocess():  # whose handler would be replaced by the one below
        yield distributed.PreemptionNotice()
        return
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be installed
        yield stop
        return

    def note(number: int, frame: Any) -> None:
        stop.set()
        if callable(before):  # that of a sweep, which then starts no other run
            before(number, frame)
        else:
            log_primary("SIGTERM: saving a checkpoint and stopping.")

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        with suppress(TypeError):
            signal.signal(signal.SIGTERM, before)
