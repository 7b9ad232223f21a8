"""While the tests run, every call inside glvid is checked against its annotations, shapes of arrays included."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the command does, before torch is loaded
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes that share the cores (-n)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from test_order import ORDER

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float
unchecked = ("cli", "__main__")  # typer's Context is not what it says
install_import_hook([f"glvid.{name}" for name in ORDER if name not in unchecked], "conftest.checked")
