"""From a payload to the verdict on it: sealing, sending, asking again."""
