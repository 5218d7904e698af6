"""From a delivery to a handler that has handled it: checking, handing out, acknowledging."""
