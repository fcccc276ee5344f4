"""Lists a folder: the least that can be done to know the states."""

import os
import sys

print(len(os.listdir(sys.argv[1])))
