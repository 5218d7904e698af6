"""Bots that send more than one bot may."""
