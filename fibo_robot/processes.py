"""Worker processes that end with the process that started them."""

import multiprocessing
import os
import threading


def exit_with_parent() -> None:
    """End this worker process as soon as its parent is gone, however that ended; call it in the worker."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
