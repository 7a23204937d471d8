"""Running a model over a file: rows in, rows with answers out, from where it stopped."""
