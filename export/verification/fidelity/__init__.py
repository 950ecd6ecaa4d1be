"""The fidelity gate: can a policy be exported unchanged? It is run once, when its bundle is begun.

gate.py           the gate: what is looked at, in which order, and what is said
live.py           the live module at work, row by row and in batches
answers.py        whether two answers are the same
python_values.py  where a tensor's value becomes a Python value, by watching calls
python_source.py  what a line of Python does with a value, by its source
remembered.py     what a module holds, before and after
"""
