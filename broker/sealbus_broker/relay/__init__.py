"""From a message that came to its verdict, stored and told: one relay."""
