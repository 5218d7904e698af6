"""An in-memory bus for bot authors. Its public face is :mod:`sealbus.testing`.

This module imports nothing, so that pytest may load the plugin beside it in any environment.
"""
