"""Load for the test of the containers, by pika.

load.py publish QUEUE FILE PORT...   publish numbered messages with confirms until standard input ends; the number of each
                                     that was confirmed goes to FILE. A connection that breaks is opened anew, to the next port.
load.py drain QUEUE FILE PORT        take everything out; the numbers of what came go to FILE.
"""
import itertools
import sys
import threading
import time

import pika
import pika.exceptions

FAULTS = (pika.exceptions.AMQPError, OSError)


def connect(port):
    return pika.BlockingConnection(pika.ConnectionParameters(
        "127.0.0.1", port, credentials=pika.PlainCredentials("admin", "change-me"),
        heartbeat=5, blocked_connection_timeout=60, socket_timeout=10, stack_timeout=15))


def publish(queue, path, ports):
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    numbers = itertools.count()
    with open(path, "w", buffering=1) as confirmed:
        for port in itertools.cycle(ports):
            if over.is_set():
                return
            try:
                with connect(port) as connection:
                    channel = connection.channel()
                    channel.queue_declare(queue, durable=True)
                    channel.confirm_delivery()
                    while not over.is_set():
                        number = next(numbers)
                        channel.basic_publish("", queue, str(number).encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)
                        print(number, file=confirmed)
            except FAULTS as fault:
                print(f"port {port}: {fault!r}", file=sys.stderr)
                time.sleep(0.2)


def drain(queue, path, port):
    with connect(port) as connection, open(path, "w") as out:
        channel = connection.channel()
        left = channel.queue_declare(queue, passive=True).method.message_count
        channel.basic_qos(prefetch_count=100)
        if left == 0:
            return
        for method, _, body in channel.consume(queue, inactivity_timeout=60):
            if method is None:
                sys.exit(f"{left} messages of {queue} do not come")
            print(body.decode(), file=out)
            channel.basic_ack(method.delivery_tag)
            left -= 1
            if left == 0:
                channel.cancel()
                if channel.queue_declare(queue, passive=True).method.message_count != 0:
                    sys.exit(f"{queue} is not empty")
                return


if __name__ == "__main__":
    command, queue, path, *ports = sys.argv[1:]
    if command == "publish":
        publish(queue, path, [int(p) for p in ports])
    else:
        drain(queue, path, int(ports[0]))
