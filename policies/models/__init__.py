"""What a policy is made of: observation encoder, normaliser, networks and heads."""
