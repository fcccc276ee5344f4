#!/bin/sh
# Writes down when it was started, into the file that STAMP names; its arguments are of no interest.
date +%s.%N > "$STAMP"
