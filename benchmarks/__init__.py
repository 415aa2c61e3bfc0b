"""How fast crawlfleet is, and how little it takes: `python -m benchmarks`. docs/benchmarks.md says how to read it.

One module for each benchmark, its docstring says what is measured and what the figure does not tell. They run real
nodes in processes of their own, on real databases; nothing here is part of the installed package.
"""
