"""Tokens of identity providers: taken apart, verified, and compared with identities of a policy."""
