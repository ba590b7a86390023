"""Data larger than memory for `fit` and `evaluate`: the short list of what data/blocks.py and data/formats.py hold."""

from jaxbackprop.data.blocks import Blocks, examples_of, mapped, spilled
from jaxbackprop.data.formats import open_npy, open_parquet

__all__ = ["Blocks", "examples_of", "mapped", "open_npy", "open_parquet", "spilled"]
