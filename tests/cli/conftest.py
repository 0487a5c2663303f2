"""An exported folder to serve, as the tests of the server have it."""

from tests.serving.conftest import folder as folder
from tests.serving.conftest import server as server
