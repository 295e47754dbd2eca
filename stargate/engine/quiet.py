"""Imports eventlet without its deprecation warning, which tells its users nothing they can do.

The documentation says what it means for stargate: another engine is one file of this folder.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    import eventlet
    import eventlet.corolocal
    import eventlet.greenio
    import eventlet.hubs
    import eventlet.patcher
    import eventlet.support.greenlets
    import eventlet.wsgi

__all__ = ["eventlet"]
