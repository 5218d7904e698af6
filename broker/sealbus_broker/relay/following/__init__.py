"""A relay follows its folder, and the sessions of bots obey."""
