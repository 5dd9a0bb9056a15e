"""Numbers in, estimates out: no files, no clocks, no printing. Data frames do not leave this package."""
