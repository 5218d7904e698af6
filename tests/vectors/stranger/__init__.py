"""A second reader of the protocol, written from docs/protocol.md alone. Tests plant mistakes in it.

It uses nothing of the client: only hashes, Ed25519 and the document's words. ``rules.py`` says how
a mistake is planted. ``encoding.py``, ``signing.py``, ``certificates.py``, ``messages.py`` and
``receiving.py`` are the protocol. ``answers.py`` runs the vectors. The reader is slow, and need not
be fast.
"""
