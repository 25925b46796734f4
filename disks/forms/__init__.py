"""The shape of input, one module per page; nothing here writes."""
