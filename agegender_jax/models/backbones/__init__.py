"""The backbones, one file each: every module of this package is imported and registers what it holds."""

from agegender_jax.models.registry import BACKBONES, BackboneOptions, build_backbone, find_backbone, import_modules

__all__ = ["BACKBONES", "BackboneOptions", "build_backbone", "find_backbone"]

import_modules(__path__, __name__)
