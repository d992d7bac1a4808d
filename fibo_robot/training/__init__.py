"""Training shared by policies and classifiers: config, Lightning glue, the checkpoint directory."""
