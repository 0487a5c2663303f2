"""Finished folders: an exported model with all that a runtime wants beside it, and a card.

`targets.py` is the table of runtimes. A new one is a file with its record, and a line there.
"""
