"""Other task queues under the same work as crawlfleet, in the same run: `make bench-peers`, see docs/benchmarks.md.

Only the modules named `..._tasks` import a peer; they, `enqueue`, `stamps` and `table` run in the peers' virtual
environment and may import nothing of crawlfleet.
"""
