"""What rollouts come to: success rates with intervals, comparisons, figures, reports and videos."""
