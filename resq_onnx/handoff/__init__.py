"""Write folders for runtimes: an exported model, the files that a runtime needs, and a card.

`targets.py` is the table of runtimes. A new one is a file with its record, and a line in the table.
"""
