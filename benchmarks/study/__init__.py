"""Does the attention help? Attentions and controls, trained alike on few pictures: see docs/evidence.md."""
