"""Networks as files describe them, made plain, quantised and lowered to graphs."""
