"""Jobs that everybody may watch and switch: a tree of resources, two pages and their WebSockets."""

from pyramid.config import Configurator

from jobs.resources import Jobs, Root


def main(global_config, **settings):
    """The WSGI application: what ``use = call:jobs:main`` in an ini file calls."""
    root = Root()  # In memory, for as long as the process lives.
    root["jobs"] = Jobs(root)
    with Configurator(settings=settings, root_factory=lambda request: root) as config:
        config.include("stargate")
        config.add_static_view("static", "static", cache_max_age=0)
        config.scan(".views")
        return config.make_wsgi_app()
