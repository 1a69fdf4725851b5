"""Nodes of ComfyUI that use a running `fairlead serve`."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
