"""Methods compared by their evaluations: rates, pairs, what may mislead, and their part of a report."""
