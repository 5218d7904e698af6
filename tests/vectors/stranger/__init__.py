"""A second reader of the protocol, written from docs/protocol.md alone, into which mistakes can be planted.

Nothing of the client is used here: hashes, Ed25519 and the document's words. ``rules.py`` says how a mistake is planted;
``encoding.py``, ``signing.py`` and ``messages.py`` are the protocol; ``answers.py`` runs the vectors. It is slow and has no
need to be fast.
"""
