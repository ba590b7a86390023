"""`python -m jaxbackprop` is the command `jaxbackprop`."""

from jaxbackprop.cli import entry

entry()
