"""The worker of one partition of INGRESS, and the parts that it works with."""
