"""Where compiled programs are kept."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from agegender_jax.compilation import cache_compilations


def folder() -> str:
    return getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009  unknown to mypy


@pytest.fixture
def jax_options() -> Iterator[None]:
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("jax_options")
def test_the_cache_lies_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_compilations()
    assert folder() == str(tmp_path / "agegender_jax" / "compiled")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cache_compilations()
    assert folder() == str(tmp_path / "home" / ".cache" / "agegender_jax" / "compiled")


@pytest.mark.usefixtures("jax_options")
def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    cache_compilations()
    assert folder() == str(tmp_path / "mine")
