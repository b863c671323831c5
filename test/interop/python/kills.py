"""Publishes numbers and consumes them by one API while the nodes in use are killed: kills.py plain|aio QUEUE RATE LEAST
ADDRESS... publishes RATE numbers a second, at least LEAST. A line "node" on its input asks for the node in use and how many
numbers were consumed; "finish" says that no more nodes are killed. It prints at last what was published, what was lost, what
came twice unmarked and what came out of order, and fails on any error that the SDK lets through.
"""

import asyncio
import logging
import sys
import threading
import time

import warren
from warren import aio

api, queue, rate, least = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
addresses = sys.argv[5:]
QUIET = 2.0  # seconds without a message, after which nothing comes any more


class Tally:
    """What was published and what came."""

    def __init__(self):
        self.started = time.monotonic()
        self.finish = threading.Event()
        self.published = None  # how many, once all are
        self.unconfirmed = []
        self.seen = set()
        self.twice = 0
        self.disordered = 0
        self.last = -1  # of those not marked as redelivered

    def more(self, number):
        return number < least or not self.finish.is_set()

    def pause(self, number):
        """How long to wait before the next number, in seconds."""
        return max(0.0, self.started + number / rate - time.monotonic())

    def outcome(self, number, outcome):
        if outcome.exception() is not None:
            self.unconfirmed.append((number, outcome.exception()))

    def note(self, delivery):
        number = int(delivery.body)
        if not delivery.redelivered:
            self.twice += number in self.seen
            self.disordered += number < self.last
            self.last = number
        self.seen.add(number)

    def all_came(self):
        return self.published is not None and len(self.seen) >= self.published

    def report(self):
        lost = self.published - len(self.seen)
        print(f"published {self.published} lost {lost} twice {self.twice} disordered {self.disordered}", flush=True)
        for number, error in self.unconfirmed:
            print(f"message {number}: {error!r}")
        sys.exit(1 if lost or self.twice or self.disordered or self.unconfirmed else 0)


def plain():
    tally = Tally()
    with warren.Client(addresses) as client:
        client.declare_queue(queue, durable=True)

        def publish():
            number = 0
            with client.publisher(max_unconfirmed=1000) as publisher:
                while tally.more(number):
                    time.sleep(tally.pause(number))
                    outcome = publisher.submit(warren.Message(str(number).encode(), queue))
                    outcome.add_done_callback(lambda outcome, number=number: tally.outcome(number, outcome))
                    number += 1
            tally.published = number

        def answer():
            for line in sys.stdin:
                if line.strip() == "node":
                    print("node", client.status().node, len(tally.seen), flush=True)
                elif line.strip() == "finish":
                    tally.finish.set()

        works = [threading.Thread(target=work, daemon=True) for work in (publish, answer)]
        for work in works:
            work.start()
        with client.consume(queue) as consumer:
            while True:
                try:
                    delivery = consumer.next(QUIET)
                except TimeoutError:
                    if tally.all_came():
                        break
                    continue
                tally.note(delivery)
                try:
                    delivery.ack()
                except warren.LostError:
                    pass
        works[0].join()
    tally.report()


async def asynchronous():
    tally = Tally()
    async with aio.Client(addresses) as client:
        await client.declare_queue(queue, durable=True)

        async def publish():
            number = 0
            async with client.publisher(max_unconfirmed=1000) as publisher:
                while tally.more(number):
                    await asyncio.sleep(tally.pause(number))
                    outcome = await publisher.submit(aio.Message(str(number).encode(), queue))
                    outcome.add_done_callback(lambda outcome, number=number: tally.outcome(number, outcome))
                    number += 1
            tally.published = number

        async def answer():
            lines = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
            while line := (await lines.readline()).strip():
                if line == b"node":
                    print("node", (await client.status()).node, len(tally.seen), flush=True)
                elif line == b"finish":
                    tally.finish.set()

        works = [asyncio.create_task(publish()), asyncio.create_task(answer())]
        async with await client.consume(queue) as consumer:
            while True:
                try:
                    async with asyncio.timeout(QUIET):
                        delivery = await consumer.next()
                except TimeoutError:
                    if tally.all_came():
                        break
                    continue
                tally.note(delivery)
                try:
                    await delivery.ack()
                except aio.LostError:
                    pass
        await works[0]
        works[1].cancel()
    tally.report()


logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stdout)
if api == "plain":
    plain()
else:
    asyncio.run(asynchronous())
