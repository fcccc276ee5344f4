"""Opens and reads the files of these names in all folders of jobs, and does nothing with them: the least for results.

python read_files.py FOLDER NAME...
"""

import os
import sys

jobs, names = os.path.join(sys.argv[1], "jobs"), sys.argv[2:]
n_bytes = 0
for job in os.listdir(jobs):
    for name in names:
        with open(os.path.join(jobs, job, name), "rb", buffering=0) as file:
            n_bytes += len(file.read())
print(n_bytes)
