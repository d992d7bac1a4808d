"""What a training run does beside training: saving, averaging, schedules, and the record of its course."""
