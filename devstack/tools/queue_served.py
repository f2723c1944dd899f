#!/usr/bin/env python3
"""queue_served.py ADDRESS PASSWORD_FILE QUEUE: succeeds when a service waits for messages in that queue of RabbitMQ.

A process that is connected is not enough: nova-compute's first connection comes long before it takes requests, and what is
sent to it in between is lost.
"""

import pathlib
import sys

import amqp


def consumers(address, password, queue):
    with amqp.Connection(address, userid="openstack", password=password, connect_timeout=5) as connection:
        try:
            return connection.channel().queue_declare(queue, passive=True).consumer_count
        except amqp.NotFound:
            return 0


if __name__ == "__main__":
    address, password_file, queue = sys.argv[1:]
    sys.exit(0 if consumers(address, pathlib.Path(password_file).read_text(), queue) else 1)
