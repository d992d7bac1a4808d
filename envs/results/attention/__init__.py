"""Where a policy looks: over its pictures, in films, and as a part of a report."""
