"""Classical models on embeddings, against scikit-learn called by hand; and files that are not what they should be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import accuracy_score, balanced_accuracy_score, mean_absolute_error
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.classical import classical
from agegender_jax.evaluate.features import read_features
from agegender_jax.labels import AGE_GROUPS

COUNT = 160


def some_arrays() -> dict[str, np.ndarray]:
    """A file's arrays: embeddings of six numbers in which gender and age can be seen, some labels unknown."""
    random = np.random.default_rng(0)
    gender, age = random.integers(0, 2, COUNT), random.uniform(1, 90, COUNT)
    seen = np.stack([gender * 3, age / 10, age / 20], -1) + random.normal(size=(COUNT, 3))
    group = AGE_GROUPS["nearest"].assign(age)
    gender[::9], age[::7], group[::5] = -1, np.nan, -1
    metadata = {
        "run": "small", "evaluated_step": 7, "dataset": "utkface", "config": "", "synthetic": True, "protocol": "paper",
        "leaky": True, "split_sha256": "ab" * 32, "age_groups": "nearest", "class_names": [],
        "recipe": json.loads(recipes.to_json(recipes.base())),
    }  # fmt: skip
    return {
        "embedding": np.concatenate([seen, random.normal(size=(COUNT, 3)) * 100], -1).astype(np.float32),
        "key": np.array([f"{i}.jpg" for i in range(COUNT)]),
        "part": np.array(["train", "train", "test", "validation"] * (COUNT // 4)),
        "cluster": np.arange(COUNT),
        "label_gender": gender.astype(np.int32),
        "label_age_group": group,
        "label_age": age.astype(np.float32),
        "metadata": np.array(json.dumps(metadata)),
    }


def written(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    path = folder / "features.npz"
    np.savez(path, allow_pickle=True, **arrays)
    return path


def test_metrics_are_scikit_learn_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = some_arrays()
    result = classical(read_features(written(tmp_path, arrays)))
    x, train, test = arrays["embedding"], arrays["part"] == "train", arrays["part"] == "test"
    scaler, years = StandardScaler().fit(x[train]), arrays["label_age"]  # of all training rows, known label or not
    for name, model in (("svm", SVC()), ("forest", RandomForestClassifier(random_state=0))):
        for head in ("gender", "age_group"):
            y = arrays[f"label_{head}"]
            rows, learnt = test & (y >= 0), train & (y >= 0)
            predicted = model.fit(scaler.transform(x[learnt]), y[learnt]).predict(scaler.transform(x[rows]))
            assert result[name][f"{head}/accuracy"] == accuracy_score(y[rows], predicted)
            assert result[name][f"{head}/balanced_accuracy"] == pytest.approx(
                balanced_accuracy_score(y[rows], predicted)
            )
            assert result[name][f"{head}/n"] == rows.sum()
    rows, learnt = test & ~np.isnan(years), train & ~np.isnan(years)
    forest = RandomForestRegressor(max_features=1 / 3, random_state=0).fit(scaler.transform(x[learnt]), years[learnt])
    assert result["forest"]["age/mae"] == pytest.approx(
        mean_absolute_error(years[rows], forest.predict(scaler.transform(x[rows]))), rel=1e-5
    )
    mean, deviation = years[learnt].mean(), years[learnt].std()
    machine = SVR().fit(scaler.transform(x[learnt]), (years[learnt] - mean) / deviation)
    predicted = machine.predict(scaler.transform(x[rows])) * deviation + mean
    assert result["svm"]["age/mae"] == pytest.approx(mean_absolute_error(years[rows], predicted), rel=1e-4)
    assert result["baseline"]["age/mae"] == pytest.approx(
        np.abs(np.median(years[learnt]) - years[rows]).mean(), rel=1e-5
    )
    assert (result["train_examples"], result["test_examples"]) == (COUNT // 2, COUNT // 4)
    assert (result["protocol"], result["synthetic"], result["heads_left_out"]) == ("paper", True, [])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6  # one a fit
    assert lines[0].startswith(f"svm for gender, from {(train & (arrays['label_gender'] >= 0)).sum()} examples of 6")


def test_intervals_are_of_clusters(tmp_path: Path) -> None:
    """Of clusters of one example each that of a share is about the binomial one; of one cluster there is none."""
    arrays = some_arrays()
    result = classical(read_features(written(tmp_path, arrays)), ["svm"], progress=False)
    share, count = result["svm"]["age_group/accuracy"], result["svm"]["age_group/n"]
    low, high = result["intervals"]["svm"]["age_group/accuracy"]
    assert low < share < high
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(share * (1 - share) / count), rel=0.15)
    arrays["cluster"][:] = 7
    result = classical(read_features(written(tmp_path, arrays)), ["svm"], progress=False)
    assert result["intervals"] == {"svm": {}}


def test_the_test_and_validation_parts_are_not_learnt_from(tmp_path: Path) -> None:
    arrays = some_arrays()
    before = classical(read_features(written(tmp_path, arrays)), ["svm"], progress=False)
    arrays["embedding"][arrays["part"] == "validation"] = 1e6
    unknown = arrays["part"] != "train"
    swapped = arrays["label_gender"].copy()
    swapped[unknown] = np.where(swapped[unknown] >= 0, 1 - swapped[unknown], -1)
    after = classical(read_features(written(tmp_path, arrays | {"label_gender": swapped})), ["svm"], progress=False)
    assert after["svm"]["gender/accuracy"] == pytest.approx(1 - before["svm"]["gender/accuracy"])
    assert after["svm"]["age/mae"] == before["svm"]["age/mae"]


def test_a_head_with_nothing_to_learn_is_left_out_and_named(tmp_path: Path) -> None:
    arrays = some_arrays()
    arrays["label_gender"][arrays["part"] == "train"] = 1
    arrays["label_age"][:] = np.nan
    result = classical(read_features(written(tmp_path, arrays)), ["forest"], progress=False)
    assert result["heads_left_out"] == ["gender", "age"]
    assert "gender/accuracy" not in result["forest"]
    arrays["label_age_group"][:] = -1
    with pytest.raises(UserError, match="no label"):
        classical(read_features(written(tmp_path, arrays)), progress=False)
    arrays["part"][arrays["part"] == "test"] = "train"
    with pytest.raises(UserError, match="part test"):
        classical(read_features(written(tmp_path, arrays)), progress=False)


def changed(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[dict[str, np.ndarray]], None]:
    def apply(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = np.array(change(arrays[name]))

    return apply


def with_metadata(**values: Any) -> Callable[[dict[str, np.ndarray]], None]:
    return changed("metadata", lambda text: json.dumps(json.loads(str(text)) | values))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda arrays: arrays.pop("embedding"), "embedding"),
        (lambda arrays: arrays.pop("label_age"), "label_age"),
        (changed("embedding", lambda e: e * np.nan), "embedding"),
        (changed("embedding", lambda e: e[:, 0]), "embedding"),
        (changed("embedding", lambda e: e[1:]), "embedding"),
        (lambda arrays: arrays.pop("cluster"), "cluster"),
        (changed("cluster", lambda cluster: cluster[1:]), "cluster"),
        (changed("embedding", lambda e: e[:, :0]), "embedding"),
        (changed("key", lambda keys: keys.astype(object)), "features"),
        (changed("key", lambda keys: keys[1:]), "key"),
        (changed("part", lambda part: np.where(part == "test", "exam", part)), "part"),
        (changed("label_gender", lambda label: label + 1), "label_gender"),
        (changed("label_gender", lambda label: label.astype(np.float32)), "label_gender"),
        (changed("label_age", lambda label: label[1:]), "label_age"),
        (changed("label_age", lambda label: label / 0), "label_age"),
        (changed("metadata", lambda text: "[]"), "metadata"),
        (changed("metadata", lambda text: "{"), "features"),
        (with_metadata(synthetic="no"), "synthetic"),
        (with_metadata(recipe={"heads": {"age": {"loss": "l1", "none": 1}}}), "none"),
        (with_metadata(recipe={"age_groups": "ten", "heads": {"age": {"loss": "l1"}}}), "age_groups='ten'"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_damaged_file_is_one_sentence(damage: Callable, name: str, tmp_path: Path) -> None:
    arrays = some_arrays()
    damage(arrays)
    path = written(tmp_path, arrays)
    with pytest.raises(UserError, match=rf"features\.npz.*{name}") as error:
        read_features(path)
    assert len(str(error.value).splitlines()) == 1


def test_what_is_no_such_archive_is_one_sentence(tmp_path: Path) -> None:
    whole = written(tmp_path, some_arrays()).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 10] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    np.savez_compressed(tmp_path / "bomb.npz", embedding=np.zeros((10**6, 2), np.float32))
    np.save(tmp_path / "array.npz", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    for name in ("cut", "flipped", "bomb", "array"):
        with pytest.raises(UserError, match=name):
            read_features(tmp_path / f"{name}.npz")
    with pytest.raises(UserError, match=r"none\.npz"):
        read_features(tmp_path / "none.npz")
