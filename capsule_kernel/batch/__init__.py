"""Runs of whole notebooks: reading, executing, reporting and writing them. It never imports `front`."""
