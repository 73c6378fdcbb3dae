"""Figures as text."""

from agegender_jax.evaluate.summary_text import metrics_table, summary_text


def test_columns_are_aligned_and_keep_the_order_of_the_metrics() -> None:
    lines = metrics_table(
        {"a": {"x/long_name": 0.123456, "n": 10}, "wide column": {"n": 3, "y": float("nan")}}
    ).splitlines()
    assert lines == [
        "                  a  wide column",
        "x/long_name  0.1235",
        "n                10            3",
        "y                            nan",
    ]


def test_an_interval_stands_beside_its_metrics() -> None:
    columns = {"a": {"x": 0.5, "n": 9}, "b": {"x": 0.25}}
    two = {"a": {"x": (0.4, 0.6), "other": (0.0, 1.0)}, "b": {"x": (0.2, 0.3)}}
    assert metrics_table(columns, {"a": two["a"]}).splitlines() == [
        "        a              95 %       b",
        "x  0.5000  0.4000 to 0.6000  0.2500",
        "n       9",
    ]
    assert metrics_table(columns, two).splitlines()[0].split("  ")[-1].strip() == "b, 95 %"


def test_the_summary_says_what_was_measured_on_what() -> None:
    summary = {
        "run": "first",
        "dataset": "utkface",
        "synthetic": True,
        "flip_average": True,
        "protocol": "disjoint",
        "leaky": False,
        "age_groups": "nearest",
        "split_sha256": "0123456789abcdef" * 4,
        "validation": {"gender/accuracy": 0.91, "n": 20},
        "test": {"gender/accuracy": 0.92, "n": 30},
        "baseline": {"gender/accuracy": 0.5, "n": 30},
        "baseline_names": {"gender": "always male"},
        "images_per_second": 1234.5,
        "epochs": 3.0,
        "seconds": 62.0,
        "peak_memory_bytes": 2_500_000_000,
    }
    text = summary_text(summary)
    for part in ("synthetic: ", "disjoint", "nearest", "0123456789abcdef\n", "0.9200", "always male", "1 min 02 s"):
        assert part in text
    assert "2.50 GB" in text
    assert "1234 images/s" in text
    assert "images/s" not in summary_text(summary | {"images_per_second": None})
    assert "synthetic: " not in summary_text(summary | {"synthetic": False})
    assert "not flip-averaged" in summary_text(summary | {"flip_average": False})
