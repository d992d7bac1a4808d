"""From folders, lists and published layouts to labelled clips."""
