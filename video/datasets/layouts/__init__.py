"""How data sets lie on disk: a reader for each, which returns labelled clips."""
