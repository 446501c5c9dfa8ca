"""What refuses foreign hosts in a process. The guarded interpreter (`offline.py`) holds a copy and runs it first.

It imports next to nothing, because every process that the tests start waits for it.
"""

import os
import sys

# This machine, what an own socket is bound to, and the machine's name, which torch's rendezvous looks up.
HERE = {"localhost", "::1", "", "0.0.0.0", "::", "None", os.uname().nodename}
LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def watch(log: str) -> None:
    """Refuse foreign hosts in this process from now on, and note them in the file `log`."""

    def hook(event, arguments):
        if event in LOOK_UPS:
            host = arguments[0]
        elif event in SENDS and isinstance(arguments[1], tuple) and arguments[1]:
            host = arguments[1][0]
        else:  # a path of AF_UNIX is no tuple, and a connected socket's message has no address
            return
        host = host.decode(errors="replace") if isinstance(host, bytes) else str(host)
        if host in HERE or (host.startswith("127.") and host.replace(".", "").isdigit()):
            return
        line = f"{event} {host} by {' '.join(sys.orig_argv)[:200]!r}"
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{line}\n".encode(errors="replace"))
        os.close(handle)
        raise PermissionError(f"offline: {line}")

    sys.addaudithook(hook)
