"""Speed measurements behind `fibo bench`: ratios within one run, against the strongest alternative."""
