"""What the attentions cost, alone and in a module, and what switching Castling's branch off costs."""
