"""One module for each row: `lines(place)` measures, and yields the lines of the table."""
