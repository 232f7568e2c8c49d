"""What `tests/bench_knobs.py` is made of, one job a file.

rows.py: one row of the table, before and after it is measured. plan.py: which rows there are. lent.py: the weights,
which all processes share. measuring.py: one row, built and timed. children.py: a process, seen from its parent.
starting.py: the first process, and those that hold the weights. room.py: who builds and who is timed on the one GPU.
table.py: the results as text.
"""
