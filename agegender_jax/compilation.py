"""Compiled programs are kept between starts."""

import os
from pathlib import Path

import jax


def cache_compilations() -> None:
    """Turns on JAX's persistent cache, in `JAX_COMPILATION_CACHE_DIR` or else the user's cache folder."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "agegender_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
