"""Tasks of a command in HyperQueue, with one worker here: the seconds from their submission until all have ended.

Nothing is kept that it can be asked to leave out: no output of the tasks, and no journal of the server.

python hyperqueue_tasks.py N_TASKS N_AT_ONCE COMMAND
"""

import os
import sys
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

n_tasks, n_at_once, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with LocalCluster(worker_config=WorkerConfig(cores=n_at_once)) as cluster:
    client = cluster.client()
    job = Job(os.getcwd(), default_env={"RESULTS": os.environ["RESULTS"]})
    for _ in range(n_tasks):
        job.program([command], stdout=None, stderr=None)
    started = time.perf_counter()
    client.wait_for_jobs([client.submit(job)])  # raises unless all have ended well
    print("seconds", time.perf_counter() - started)
