"""`python -m jaxbackprop` is the command `jaxbackprop`."""

from jaxbackprop.command.main import entry

entry()
