"""SeqLens: an inference server for sequence models that never pads without need."""

from importlib.metadata import version

__version__ = version("seqlens")
