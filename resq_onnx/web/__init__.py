"""A chat page that runs an exported model in the browser, and a small server for it.

`packages.py` fetches the npm packages of the page, `site.py` maps addresses to files, `server.py`
serves them; `page/` is the page itself.
"""

from resq_onnx.web.packages import fetch_packages
from resq_onnx.web.server import make_server
from resq_onnx.web.site import Site, make_site, write_site

__all__ = ["Site", "fetch_packages", "make_server", "make_site", "write_site"]
