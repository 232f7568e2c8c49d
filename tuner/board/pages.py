"""torch-tb-profiler's pages, with scripts that ship in this package in place of those that they load from the web."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tuner.errors import Unavailable

STATIC = Path(__file__).parent / "static"
SCRIPTS = {
    "index.html": (
        '<script src="https://www.gstatic.com/charts/loader.js"></script>',
        ("chart.umd.min.js", "charts.js"),
    ),
    "trace_embedding.html": (
        '<script src="https://cdnjs.cloudflare.com/ajax/libs/webcomponentsjs/0.7.24/webcomponents.min.js"></script>',
        ("webcomponents.min.js",),
    ),
}
"""For each page that loads a script from the web: the element that loads it, and the files that replace it."""


def offline(served: Any) -> Any:
    """Wrap the plugin's route for static files so that the pages in `SCRIPTS` come from `page`."""
    from werkzeug import Response

    def route(plugin: Any, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        name = str(environ["PATH_INFO"]).rpartition("/")[2]
        if name not in SCRIPTS:
            answer: Iterable[bytes] = served(plugin, environ, start_response)
        else:
            headers = {"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff"}
            answer = Response(page(name), headers=headers)(environ, start_response)
        return answer

    return route


@cache
def page(name: str) -> str:
    """Return one of the plugin's pages with our scripts in it.

    Raises Unavailable if it is not the page that they were made for.
    """
    import torch_tb_profiler

    original = (Path(torch_tb_profiler.__file__).parent / "static" / name).read_text(encoding="utf-8")
    from_web, ours = SCRIPTS[name]
    if from_web not in original:
        raise Unavailable(f"torch-tb-profiler's {name} is another than that of 0.4.3: it has no {from_web}")
    scripts = ((STATIC / file).read_text(encoding="utf-8") for file in ours)
    return original.replace(from_web, "".join(f"<script>{script}</script>" for script in scripts))
