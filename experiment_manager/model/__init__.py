"""Values of the project without I/O: records, ids, configurations, grids, filters, and what to do with jobs."""
