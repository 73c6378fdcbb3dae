"""The lines that a run prints about its data, model and training before it starts."""

import jax

from agegender_jax.evaluate.summary_text import identities
from agegender_jax.labels import DISCLAIMER, UNDEFINED_GENDER
from agegender_jax.models.heads import AgeYearsHead, ClassHead, GenderHead
from agegender_jax.sharding import bytes_per_device, total_bytes
from agegender_jax.splits import PARTS, is_leaky, marked
from agegender_jax.train.optimizer import frozen_parameters
from agegender_jax.train.setup import Setup
from agegender_jax.train.state import TrainState


def describe_data(setup: Setup) -> str:
    """Describes dataset, labels and split in lines of text."""
    dataset, split, metadata = setup.dataset, setup.split, setup.metadata
    kind = "recordings" if metadata["kind"] == "audio" else "images"
    size = setup.image_size
    fold = f", fold {split.fold} of {split.folds}" if split.folds else ""
    lines = [
        f"Dataset: {setup.dataset_name} {metadata['dataset_version']}, {len(dataset):,} {kind} at {size}x{size}"
        + (f" ({DISCLAIMER})" if setup.synthetic else ""),
        f"Loading: {dataset.placement}",
        f"Labels: perceived age and gender as annotated; age groups: {setup.age_groups}",
    ]
    if any(isinstance(head, GenderHead) and UNDEFINED_GENDER in head.names for head in setup.heads.values()):
        lines.append('  The gender "undefined" means "infant, not annotated", not a third gender.')
    lines.append(f"Split: {marked(split.protocol, is_leaky(split))}{fold}; sha256 {split.sha256[:16]}")
    for part, title in zip(PARTS, ("Training", "Validation", "Test"), strict=True):
        count, wanted = len(getattr(split, part)), split.report.get(f"wanted_{part}")
        uneven = wanted is not None and abs(count - wanted) > 0.25 * wanted
        note = f" ({wanted:,} requested; groups are not divided)" if uneven else ""
        lines.append(f"{title} set: {count:,} {kind}{note}")
    if (identical := metadata["identical_files"])["groups"]:
        lines.append(
            f"Identical files: {identical['files']:,} in {identical['groups']:,} groups; "
            f"{identical['conflicting_files']:,} files in {identical['conflicting_groups']:,} groups have conflicting "
            "labels and are used for training only"
        )
    lines.append(f"Subjects: {identities(metadata['subjects'])}")
    if leaks := split.report["groups_in_several_parts"]:
        lines.append(f"Leaky: {leaks:,} groups of one subject or file lie in several parts of the split")
    if seen := split.report.get("seen_by_pretrained"):
        lines.append(f"Leaky: {seen:,} validation and test examples were seen by the pretrained run")
    if spectrogram := metadata.get("spectrogram"):
        lines.append("Spectrogram: " + ", ".join(f"{key} {value}" for key, value in spectrogram.items()))
    for name, head in setup.heads.items():
        if isinstance(head, ClassHead) and head.class_weights is not None:
            pairs = zip(head.names, head.class_weights, strict=True)
            lines.append(f"Class weights, {name}: " + ", ".join(f"{label} {weight:.2f}" for label, weight in pairs))
        elif isinstance(head, AgeYearsHead) and head.class_weights is not None:
            present = head.class_weights[head.class_weights > 0]
            lines.append(f"Class weights, {name}: {present.min():.2f} to {present.max():.2f} for {len(present)} years")
    if not setup.synthetic:
        lines.append(f"Terms: {dataset.terms}")
    return "\n".join(lines)


def describe_model(setup: Setup) -> str:
    """Describes the model, its training and the memory of its state in lines of text."""
    counts, options = setup.step_counts, setup.options
    count = sum(leaf.size for leaf in jax.tree.leaves(setup.model.params))
    text = f"Model: {setup.model_name}, {count:,} parameters"
    if options.optimizer.freeze:
        epoch = options.optimizer.unfreeze_epoch
        until = f" until epoch {epoch:g}" if epoch else ""
        text += f", {frozen_parameters(options.optimizer, setup.model.params):,} of them frozen{until}"
    epochs, plural = counts.total / counts.steps_per_epoch, "s" if counts.total > 1 else ""
    number = f"{epochs:.1f}" if epochs >= 1 else f"{epochs:.2g}"
    text += f"\nTraining: {counts.total:,} step{plural} of batch size {options.batch_size} ({number} epochs"
    # A difference of more than a dispatch: the run was cut short on purpose.
    rounded = abs(counts.total - options.epochs * counts.steps_per_epoch) <= counts.dispatch
    if rounded and counts.dispatch > 1 and abs(epochs - options.epochs) > 0.25 * options.epochs:
        text += (
            f" instead of {options.epochs:g}, because a dispatch has {counts.dispatch} steps: "
            "lower config.train.steps_per_dispatch"
        )
    return f"{text})\n{describe_memory(setup.state)}"


def describe_memory(state: TrainState) -> str:
    """Returns the bytes of the training state on each device."""
    trees = {"parameters": state.params, "optimizer": state.opt_state, "average": state.average}
    trees = {name: tree for name, tree in trees.items() if tree is not None}
    here, whole = bytes_per_device(list(trees.values())), total_bytes(list(trees.values()))
    sizes = ", ".join(f"{name} {bytes_per_device(tree):,} bytes" for name, tree in trees.items())
    text = f"Memory on each of {len(state.step.sharding.device_set)} devices: {sizes}"
    return text + (f" (1/{whole / here:.2f} of the whole state, {whole:,} bytes)" if here < whole else "")
