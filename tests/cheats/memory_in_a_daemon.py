"""Leaves a process of its own behind, which answers on a socket of the local network."""

import os
import socket

from support.honest_method import Remembers

PORT = 47615


class Cheat(Remembers):
    def hide(self, domain):
        server = socket.create_server(("127.0.0.1", PORT))
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                server.settimeout(60)
                server.accept()
            os._exit(0)

    def finds(self, domain):
        socket.create_connection(("127.0.0.1", PORT), timeout=5).close()
        return True
