"""Messages by hand: sent, received, and taken apart."""
