"""What Experiment Manager costs, measured beside its peers and beside what cannot be done faster: `make bench`.

    python -m benchmarks                         every row, at full size: about an hour
    python -m benchmarks --quick                 every row, at sizes that only show that it works
    python -m benchmarks planning start          these rows

How a number comes about. Each contestant is a whole process, from its start to its end, unless its row says otherwise.
The contestants of a row take turns within each round, after one that only warms the caches (none where a round takes
minutes); what is shown is the median over the rounds, with half of the range. A ratio is ours divided by the peer's,
so small is good for us. Where SLURM is not what is measured, nobody finds it on the path: its settings change nothing.

A peer gets the same configuration and the least work that it can be asked for. Where it could not finish our size,
its cost per job is the slope between two sizes that it can, which leaves its start-up out; ours always includes it.
"""
