"""Bots join a bus or leave it: by an operator's hand, or with an invitation."""
