"""The backbones, one file each: every module of this package is imported and registers what it holds."""

import importlib
import pkgutil

from agegender_jax.models.registry import BACKBONES, BackboneOptions, BackboneSpec, build_backbone, find_backbone

__all__ = ["BACKBONES", "BackboneOptions", "BackboneSpec", "build_backbone", "find_backbone", "import_backbones"]


def import_backbones() -> None:
    """Imports every module of this package."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)


import_backbones()
