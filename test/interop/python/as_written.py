"""Runs a program of the SDK's README as it is written: as_written.py ADDRESS PROGRAM ARGUMENT... The nodes that the program
names are all the one at ADDRESS."""

import runpy
import sys

from warren import _connection

address = sys.argv[1]
open_channel = _connection.open_channel
_connection.open_channel = lambda _, *rest: open_channel(address, *rest)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
