import concurrent.futures
import logging
import threading
import unittest

from fake_node import Cluster
from test_aio import WatchCalls, WatchStreams

import warren
from warren._loop import run
from warren._proto import publishing_pb2

PATIENCE = 300.0  # seconds for any wait


class Blocking(unittest.TestCase):
    """What the blocking API adds to asyncio's, with nodes in the event loop of the SDK."""

    def setUp(self):
        logger = logging.getLogger("test")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
        self.cluster = Cluster()
        self.nodes = run(self.cluster.start, 2)
        addresses = [n.address for n in self.nodes]
        self.client = warren.Client(addresses, logger=logger, reconnect_delay=(0.01, 0.1), timeout=PATIENCE)
        self.addCleanup(self.stop)

    def stop(self):
        self.client.close()
        for node in self.nodes:
            run(node.stop)

    def test_many_threads_publish(self):
        self.nodes[0].confirm_until = 100
        with self.client.publisher(max_unconfirmed=50) as publisher, concurrent.futures.ThreadPoolExecutor(8) as pool:
            works = [pool.submit(publisher.submit, warren.Message(b"%d" % i, "q"), PATIENCE) for i in range(2000)]
            outcomes = [work.result() for work in works]
            publisher.flush()
            self.assertTrue(all(outcome.done() and outcome.exception() is None for outcome in outcomes))
        self.assertEqual(sorted(int(body) for body in self.cluster.stored.values()), list(range(2000)))

    def test_outcomes(self):
        self.nodes[0].outcome = {b"nowhere": {"outcome": publishing_pb2.OUTCOME_UNROUTABLE}}
        with self.client.publisher() as publisher:
            publisher.publish(warren.Message(b"good", "q"), timeout=PATIENCE)
            with self.assertRaises(warren.UnroutableError):
                publisher.publish(warren.Message(b"nowhere", "q"))
            outcome = publisher.submit(warren.Message(b"good", "q"))
            self.assertFalse(outcome.cancel())
        with self.assertRaises(warren.ClosedError):
            publisher.submit(warren.Message(b"late", "q"))

    def test_a_callback_cannot_block(self):
        failed = concurrent.futures.Future()

        def callback(_):
            try:
                self.client.status()
                failed.set_result(None)
            except RuntimeError as e:
                failed.set_result(e)

        with self.client.publisher() as publisher:
            publisher.submit(warren.Message(b"x", "q")).add_done_callback(callback)
            self.assertIsInstance(failed.result(PATIENCE), RuntimeError)

    def test_time_limits(self):
        run(self.nodes[0].stop)
        run(self.nodes[1].stop)
        with warren.Client([n.address for n in self.nodes], logger=logging.getLogger("test"), timeout=0.1) as client:
            with self.assertRaises(TimeoutError):
                client.status()
            publisher = client.publisher()
            with self.assertRaises(TimeoutError):
                publisher.publish(warren.Message(b"x", "q"), timeout=0.1)
            with self.assertRaises(TimeoutError):
                publisher.close(timeout=0.1)
            with self.assertRaises(TimeoutError):
                client.consume("q")

    def test_consuming(self):
        self.cluster.queue = [b"a", b"b", b"c"]
        with self.client.consume("q") as consumer:
            first = consumer.next(PATIENCE)
            self.assertEqual(first.body, b"a")
            rest = [consumer.next(PATIENCE), consumer.next(PATIENCE)]
            with self.assertRaises(TimeoutError):
                consumer.next(0.01)
            rest[1].discard()
            rest[0].ack()
            first.ack()
            with self.assertRaises(warren.SettledError):
                first.ack()
        settled = {tag: to for tag, _, to in self.cluster.settles}
        self.assertEqual(settled.get(3), 4)
        self.assertIn(2, settled)
        self.assertEqual(list(consumer), [])

    def test_handlers_in_threads(self):
        self.cluster.queue = [b"%d" % i for i in range(20)]
        together = threading.Barrier(4, timeout=PATIENCE)  # it needs four workers to pass
        seen = []
        with self.client.consume("q") as consumer:

            def handler(delivery):
                together.wait()
                seen.append(int(delivery.body))
                if len(seen) == 20:
                    consumer.stop()

            consumer.handle(handler, workers=4)
        self.assertEqual(sorted(seen), list(range(20)))
        self.assertEqual(max(tag for tag, _, _ in self.cluster.settles), 20)

    def test_another_thread_closes(self):
        consumer = self.client.consume("q")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            reading = pool.submit(list, consumer)
            consumer.close()
            self.assertEqual(reading.result(PATIENCE), [])

    def test_interceptors(self):
        calls = []
        with warren.Client(self.nodes[0].address, interceptors=[WatchCalls(calls), WatchStreams(calls)]) as client:
            client.status()
            with client.publisher() as publisher:
                publisher.publish(warren.Message(b"x", "q"), timeout=PATIENCE)
        self.assertEqual(calls, ["GetStatus", "Publish"])

    def test_lists(self):
        self.assertEqual([x.name for x in self.client.exchanges()], ["x0", "x1", "x2"])


if __name__ == "__main__":
    unittest.main()
