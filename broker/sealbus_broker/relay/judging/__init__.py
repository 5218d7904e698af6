"""A batch on its way: from the messages of NATS to verdicts that are carried out."""
